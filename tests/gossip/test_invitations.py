"""Networks to which one must be invited: the commands, and nodes as processes."""

from __future__ import annotations

import json
import signal
import stat
from pathlib import Path
from typing import Any

import pytest

from p2p import identity, network_key
from p2p.invitation import PREFIX, parse
from tests.daemons import Node, Start, eventually, gossip, here


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "net.key"
    network_key.create(path)
    return path


@pytest.fixture
def admin(tmp_path: Path) -> Path:
    path = tmp_path / "admin.key"
    identity.create(path)
    return path


def invite(key: Path, admin: Path, *arguments: object) -> dict[str, Any]:
    made = here("invite", "--network-key", key, "--admin-key", admin, "--json", *arguments)
    assert made.exit_code == 0, made.stderr
    return json.loads(made.stdout)  # type: ignore[no-any-return]


def refused(code: int, *arguments: object) -> str:
    result = here(*arguments)
    assert (result.exit_code, result.stdout) == (code, ""), result.stderr
    return result.stderr


# commands -----------------------------------------------------------------------------------------


def test_an_admin_key_is_for_its_owner_and_never_written_over_another(tmp_path: Path) -> None:
    path = tmp_path / "admin.key"
    made = here("key", "new", path, "--admin", "--json")
    assert json.loads(made.stdout) == {"admin": str(identity.load(path).id), "file": str(path)}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    written = path.read_bytes()
    assert f"{path} exists already" in refused(3, "key", "new", path, "--admin")
    assert path.read_bytes() == written
    other = here("key", "new", tmp_path / "other.key", "--admin")
    assert str(identity.load(tmp_path / "other.key").id) in other.stdout


def test_an_invitation_is_one_line_that_says_what_was_asked_for(key: Path, admin: Path) -> None:
    guest = str(identity.load(admin).id)
    made = invite(key, admin, "--uses", 3, "--expires", "2h")
    invitation, _, secret = parse(made["invitation"])
    assert (invitation.uses, invitation.bearer, len(secret)) == (3, True, 32)
    assert invitation.expires - invitation.begins == 7200
    assert made["name"] == invitation.name
    assert made["network"] == network_key.load(key).id.hex()
    named = invite(key, admin, "--for", guest, "--role", "inviter")
    invitation, _, secret = parse(named["invitation"])
    assert (str(invitation.subject), invitation.inviter, secret) == (guest, True, b"")
    assert invitation.expires - invitation.begins == 7 * 86400
    plain = here("invite", "--network-key", key, "--admin-key", admin)
    assert len(plain.stdout.splitlines()) == 1
    assert plain.stdout.startswith(PREFIX)
    assert parse(plain.stdout.strip())[0].name in plain.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["--expires", "soon"], 2, "'soon' is not a duration"),
        (["--expires", "0s"], 2, "'0s' is not a duration"),
        (["--expires", "31d"], 3, "30 days"),
        (["--uses", "0"], 2, "0 is not in the range"),
        (["--for", "bob"], 3, "'bob' is not a peer id"),
        (["--role", "inviter"], 3, "an inviter is invited by name"),
        (["--role", "king"], 2, "'king'"),
        (["--invitation", "/nowhere"], 3, "cannot read /nowhere"),
        (["--network-key", "/nowhere"], 3, "no network key in /nowhere"),
        (["--admin-key", "/nowhere"], 3, "cannot read the identity in /nowhere"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(
    key: Path, admin: Path, arguments: list[str], code: int, part: str
) -> None:
    said = refused(code, "invite", "--network-key", key, "--admin-key", admin, *arguments)
    assert part in said.splitlines()[-1]


def test_who_may_not_invite_is_told_so(key: Path, admin: Path, tmp_path: Path) -> None:
    other = identity.create(tmp_path / "other.key")
    file = tmp_path / "own"
    file.write_text(invite(key, admin, "--for", other.id)["invitation"])
    options = ["--network-key", key, "--admin-key", tmp_path / "other.key", "--invitation", file]
    assert f"does not let {other.id.short} invite others" in refused(3, "invite", *options)


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        ([], 2, "say whom to ban"),
        (["x", "--list"], 2, "say whom to ban"),
        (["x"], 2, "--state-dir DIR or --api H:P"),
        (["x", "--for", "long", "--api", "127.0.0.1:1"], 2, "'long' is not a duration"),
        (["x", "--state-dir", "/nowhere"], 4, "no node runs with /nowhere"),
    ],
)
def test_a_ban_without_sense_or_node_is_refused(arguments: list[str], code: int, part: str) -> None:
    assert part in refused(code, "ban", *arguments).splitlines()[-1]


def test_an_invitation_that_is_of_no_use_stops_the_start_however_it_is_named(
    key: Path, admin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = identity.create(tmp_path / "other.key")
    file = tmp_path / "own"
    file.write_text(invite(key, admin, "--for", other.id)["invitation"])
    run = ["run", "models.digits:learner", "--network-key", key, "--listen", "127.0.0.1:0"]
    part = f"the invitation in {file} is of no use: it is for {other.id}"
    assert part in refused(3, *run, "--invitation", file)
    config = tmp_path / "node.toml"
    config.write_text(f'invitation = "{file}"\n')
    assert part in refused(3, *run, "--config", config)
    monkeypatch.setenv("GOSSIP_INVITATION", str(file))
    assert part in refused(3, *run)


# nodes --------------------------------------------------------------------------------------------


@pytest.fixture
def members(tmp_path: Path, key: Path, admin: Path) -> list[object]:
    """Arguments of a node in a network to which one must be invited."""
    config = tmp_path / "node.toml"
    config.write_text(f'[access]\nmode = "invite"\nadmins = ["{identity.load(admin).id}"]\n')
    return ["--network-key", key, "--config", config, "--listen", "127.0.0.1:0", "-v"]


def invitation(tmp_path: Path, key: Path, admin: Path) -> tuple[Path, dict[str, Any]]:
    made = invite(key, admin)
    file = tmp_path / made["name"]
    file.write_text(made["invitation"] + "\n")
    return file, made


def test_the_invited_exchange_until_one_is_banned_and_the_uninvited_never(
    start: Start, tmp_path: Path, key: Path, admin: Path, members: list[object]
) -> None:
    first, _ = invitation(tmp_path, key, admin)
    second, made = invitation(tmp_path, key, admin)
    a = start("a", *members, "--invitation", first)
    b = start("b", *members, "--invitation", second, "--join", a.address)
    stranger = start("c", *members, "--join", a.address, "--join", b.address)
    a.reaches("exchanges", 5)
    stranger.says("this node has no invitation")
    assert stranger.status()["peers"] == []

    assert gossip("ban", made["name"], "--state-dir", a.state_dir).returncode == 0
    eventually("the link is gone", lambda: a.status()["peers"] == [])
    a.says("banned by the operator")
    eventually("b is told", lambda: b.status()["peers"] == [])
    assert a.ends(signal.SIGTERM)[0] == 0
    a = start("a", *members, "--invitation", first, "--join", b.address)
    a.says("is not let in: its invitation is revoked")
    assert a.status()["peers"] == []
    listed = gossip("ban", "--list", "--state-dir", a.state_dir, "--json")
    assert [ban["who"] for ban in json.loads(listed.stdout)["bans"]] == [made["name"]]
    assert gossip("ban", "--lift", made["name"], "--state-dir", a.state_dir).returncode == 0
    a.reaches("peers", 1)
    for node in (a, b, stranger):
        node.ends(signal.SIGTERM)
    shows_no_secret([a, b, stranger], [key, admin, first, second])
    assert gossip("audit", "verify", "--state-dir", a.state_dir).returncode == 0
    kinds = [entry["type"] for entry in audit_of(a)]
    assert {"start", "join", "deny", "ban", "unban", "stop"} <= set(kinds)


def audit_of(node: Node) -> list[dict[str, Any]]:
    files = sorted((node.state_dir / "audit").iterdir())
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def shows_no_secret(nodes: list[Node], files: list[Path]) -> None:
    """Neither the nodes' logs nor what they keep beside their identity holds any of it."""
    files = files + [node.state_dir / "identity.key" for node in nodes]
    # The end of the line, without its prefix; of a PEM file, the line in the middle.
    secrets = [file.read_text().splitlines()[-2:][0][-40:] for file in files]
    for node in nodes:
        kept = [file.read_text() for file in (node.state_dir / "audit").iterdir()]
        kept += [file.read_text() for file in node.state_dir.glob("*.json")]
        for text in (node.said, *kept):
            for secret in secrets:
                assert secret not in text
