"""The local API, over real sockets."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path

import aiohttp
import pytest

from gossip.access import Access, AccessConfig
from gossip.access_api import AccessApi
from gossip.api import FILE, Api
from gossip.errors import ConfigError
from gossip.routes import answering
from p2p import Address, PeerId

ANY = Address("127.0.0.1", 0)


def status() -> dict[str, object]:
    return {"exchanges": 7}


def peers() -> dict[str, object]:
    return {"roster": []}


ROUTES = [answering("status", "How it is.", status), answering("peers", "Whom it knows.", peers)]


async def ask(address: Address, path: str, token: str | None) -> tuple[int, str]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{address}{path}", headers=headers) as answer,
    ):
        return answer.status, await answer.text()


def test_the_token_in_the_file_opens_it(tmp_path: Path) -> None:
    async def check() -> None:
        async with Api(ANY, tmp_path, ROUTES) as api:
            known = json.loads((tmp_path / FILE).read_text())
            assert known["address"] == str(api.address)
            assert api.address.port > 0
            code, text = await ask(api.address, "/api/v1/status", known["token"])
            assert (code, json.loads(text)) == (200, status())
            code, text = await ask(api.address, "/api/v1/peers", known["token"])
            assert (code, json.loads(text)) == (200, peers())

    asyncio.run(check())


@pytest.mark.parametrize("token", [None, "", "wrong", "wr\udcffong"])
@pytest.mark.parametrize("path", ["/api/v1/status", "/api/v1/peers", "/", "/api/v1/nothing"])
def test_without_the_token_nothing_is_told(tmp_path: Path, token: str | None, path: str) -> None:
    async def check() -> None:
        async with Api(ANY, tmp_path, ROUTES) as api:
            code, text = await raw(api.address, path, token)
            assert code == 401
            assert "exchanges" not in text

    asyncio.run(check())


async def raw(address: Address, path: str, token: str | None) -> tuple[int, str]:
    """Ask with any bytes in the header, which a proper client would not send."""
    header = "" if token is None else f"Authorization: Bearer {token}\r\n"
    reader, writer = await asyncio.open_connection(*address)
    writer.write(f"GET {path} HTTP/1.0\r\n{header}\r\n".encode(errors="surrogateescape"))
    answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    return int(answer.split()[1]), answer


def test_other_paths_do_not_exist(tmp_path: Path) -> None:
    async def check() -> None:
        async with Api(ANY, tmp_path, ROUTES) as api:
            token = json.loads((tmp_path / FILE).read_text())["token"]
            for path in ("/", "/api/v1/status/", "/api/v2/status", "/api/v1/../../etc/passwd"):
                assert (await ask(api.address, path, token))[0] == 404

    asyncio.run(check())


def test_the_file_is_its_owners_and_goes_with_the_node(tmp_path: Path) -> None:
    async def check() -> None:
        (tmp_path / FILE).write_text("of a node that was killed")
        (tmp_path / FILE).chmod(0o644)
        (tmp_path / f"{FILE}.new").write_text("half written")
        async with Api(ANY, tmp_path, ROUTES):
            assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
            assert json.loads((tmp_path / FILE).read_text())["token"]

    asyncio.run(check())
    assert list(tmp_path.iterdir()) == []


def test_every_start_has_a_token_of_its_own(tmp_path: Path) -> None:
    async def check() -> set[str]:
        tokens = set()
        for _ in range(2):
            async with Api(ANY, tmp_path, ROUTES):
                tokens.add(json.loads((tmp_path / FILE).read_text())["token"])
        return tokens

    assert len(asyncio.run(check())) == 2


def test_a_port_in_use_and_a_directory_that_is_none_are_refused(tmp_path: Path) -> None:
    async def check() -> None:
        async with Api(ANY, None, ROUTES) as api:
            with pytest.raises(ConfigError, match=f"{api.address}.*in use.*another --api"):
                await Api(api.address, tmp_path, ROUTES).__aenter__()
            assert not (tmp_path / FILE).exists()
        with pytest.raises(ConfigError, match=r"nowhere.*No such file.*another --state-dir"):
            await Api(ANY, tmp_path / "nowhere", ROUTES).__aenter__()

    asyncio.run(check())


# browsers -----------------------------------------------------------------------------------------


async def answers(api: Api, token: str, **headers: str) -> int:
    """The code of an answer to a request with the right token and these headers."""
    given = {"Authorization": f"Bearer {token}"} | headers
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{api.address}/api/v1/status", headers=given) as answer,
    ):
        return answer.status


def test_a_host_that_leads_here_under_another_name_is_refused(tmp_path: Path) -> None:
    async def check() -> None:
        async with Api(ANY, tmp_path, ROUTES) as api:
            token = json.loads((tmp_path / FILE).read_text())["token"]
            port = api.address.port
            for host in (f"127.0.0.1:{port}", f"localhost:{port}", "LOCALHOST:1", f"[::1]:{port}"):
                assert await answers(api, token, Host=host) == 200, host
            for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "[::2]"):
                assert await answers(api, token, Host=host) == 403, host

    asyncio.run(check())


def test_a_page_from_elsewhere_is_refused_whatever_it_knows(tmp_path: Path) -> None:
    async def check() -> None:
        async with Api(ANY, tmp_path, ROUTES) as api:
            token = json.loads((tmp_path / FILE).read_text())["token"]
            assert await answers(api, token, Origin=f"http://{api.address}") == 200
            for origin in (
                "null",
                "http://evil.example",
                "http://127.0.0.1:1",
                "https://127.0.0.1",
            ):
                assert await answers(api, token, Origin=origin) == 403, origin

    asyncio.run(check())


def test_every_answer_forbids_scripts_that_are_not_ours(tmp_path: Path) -> None:
    async def check() -> None:
        async with Api(ANY, tmp_path, ROUTES) as api, aiohttp.ClientSession() as session:
            for path in ("/api/v1/status", "/nothing"):
                async with session.get(f"http://{api.address}{path}") as answer:
                    policy = answer.headers["Content-Security-Policy"]
                    assert "default-src 'none'; script-src 'self'" in policy
                    assert "unsafe" not in policy
                    assert answer.headers["Cache-Control"] == "no-store"

    asyncio.run(check())


def test_a_browser_names_the_token_among_the_protocols(tmp_path: Path) -> None:
    async def check() -> None:
        async with Api(ANY, tmp_path, ROUTES) as api:
            token = json.loads((tmp_path / FILE).read_text())["token"]
            named = {"Authorization": "", "Sec-WebSocket-Protocol": f"other, bearer.{token}"}
            assert await answers(api, "", **named) == 200
            assert await answers(api, "", **named | {"Sec-WebSocket-Protocol": "bearer."}) == 401

    asyncio.run(check())


# bans ---------------------------------------------------------------------------------------------


PEER = PeerId(bytes(32))


async def tell(api: Api, method: str, path: str, body: bytes | None, token: str) -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        aiohttp.ClientSession() as session,
        session.request(
            method, f"http://{api.address}{path}", data=body, headers=headers
        ) as answer,
    ):
        return answer.status, await answer.text()


def access(tmp_path: Path, expelled: list[PeerId]) -> Access:
    me = PeerId(bytes([1]) * 32)
    return Access(
        AccessConfig(), me, [], tmp_path, lambda: 0.0, lambda peer, reason: expelled.append(peer)
    )


def test_a_ban_is_for_whoever_has_the_token(tmp_path: Path) -> None:
    expelled: list[PeerId] = []

    async def check() -> None:
        async with Api(ANY, tmp_path, AccessApi(access(tmp_path, expelled)).routes) as api:
            token = json.loads((tmp_path / FILE).read_text())["token"]
            body = json.dumps({"who": str(PEER), "seconds": 60}).encode()
            for method, path in (
                ("POST", "/api/v1/bans"),
                ("GET", "/api/v1/bans"),
                ("DELETE", f"/api/v1/bans/{PEER}"),
            ):
                assert (await tell(api, method, path, body, "wrong"))[0] == 401
            assert expelled == []
            code, text = await tell(api, "POST", "/api/v1/bans", body, token)
            assert code == 200
            assert [ban["who"] for ban in json.loads(text)["bans"]] == [str(PEER)]
            assert expelled == [PEER]
            assert (await tell(api, "GET", "/api/v1/bans", None, token)) == (200, text)
            code, text = await tell(api, "DELETE", f"/api/v1/bans/{PEER}", None, token)
            assert (code, json.loads(text)) == (200, {"bans": []})
            code, text = await tell(api, "DELETE", f"/api/v1/bans/{PEER}", None, token)
            assert (code, json.loads(text)) == (400, {"error": f"{PEER} is not banned"})

    asyncio.run(check())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"{}",
        b'{"who": 3}',
        b'{"who": "anne"}',
        json.dumps({"who": str(PEER), "seconds": "long"}).encode(),
        json.dumps({"who": str(PEER), "seconds": -1}).encode(),
        json.dumps({"who": str(PEER), "seconds": True}).encode(),
        json.dumps({"who": str(PEER), "seconds": float("nan")}).encode(),
    ],
)
def test_a_ban_without_sense_bans_nobody(tmp_path: Path, body: bytes) -> None:
    expelled: list[PeerId] = []

    async def check() -> None:
        async with Api(ANY, tmp_path, AccessApi(access(tmp_path, expelled)).routes) as api:
            token = json.loads((tmp_path / FILE).read_text())["token"]
            code, text = await tell(api, "POST", "/api/v1/bans", body, token)
            assert code == 400
            assert json.loads(text)["error"]

    asyncio.run(check())
    assert expelled == []
