"""I/O: asks a running node through its local API. Standard library only: it must be quick."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from gossip.errors import GossipError

TIMEOUT = 5.0  # seconds; a node that trains answers late, but not that late. A guess.
TOKEN = "GOSSIP_API_TOKEN"


class Unreachable(Exception):
    """No node answers there; the text says what to do."""


class Refused(Exception):
    """The node does not do what it was asked to; the text says why."""


def status(state_dir: Path | None, api: str | None) -> dict[str, Any]:
    """The status of the node with this state directory or at this address. Raises Unreachable."""
    return ask(state_dir, api, "status", "exchanges")


def peers(state_dir: Path | None, api: str | None) -> dict[str, Any]:
    """Neighbours and roster of that node. Raises Unreachable."""
    return ask(state_dir, api, "peers", "roster")


def bans(state_dir: Path | None, api: str | None) -> list[dict[str, Any]]:
    """Whom that node keeps out. Raises Unreachable."""
    return _list(ask(state_dir, api, "bans", "bans"))


def ban(
    state_dir: Path | None, api: str | None, who: str, seconds: float | None
) -> list[dict[str, Any]]:
    """Have that node keep somebody out; whom it keeps out then. Raises Unreachable, Refused."""
    return _list(ask(state_dir, api, "bans", "bans", {"who": who, "seconds": seconds}))


def lift(state_dir: Path | None, api: str | None, who: str) -> list[dict[str, Any]]:
    """Have that node let somebody in again. Raises Unreachable, Refused."""
    return _list(ask(state_dir, api, f"bans/{quote(who, safe='')}", "bans", method="DELETE"))


def _list(found: dict[str, Any]) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = found["bans"]
    return listed


def ask(
    state_dir: Path | None,
    api: str | None,
    path: str,
    expected: str,
    body: object = None,
    method: str | None = None,
) -> dict[str, Any]:
    """What the local API says; `expected` is a key of every answer. Raises Unreachable, Refused."""
    data = None if body is None else json.dumps(body).encode()
    with send(state_dir, api, path, data, method=method) as answer:
        found = json.load(answer)
    if not isinstance(found, dict) or expected not in found:
        raise Unreachable(
            f"what answers at {api or state_dir} is not a gossip node; is it its --api?"
        )
    return found


@contextmanager
def send(
    state_dir: Path | None,
    api: str | None,
    path: str,
    data: bytes | BinaryIO | None = None,
    headers: Mapping[str, str] | None = None,
    method: str | None = None,
    timeout: float = TIMEOUT,
) -> Iterator[HTTPResponse]:
    """The local API's answer, to be read inside this; what goes wrong there is told alike.

    Raises Unreachable, Refused.
    """
    if state_dir is None:
        assert api is not None
        address, token, remedy = api, os.environ.get(TOKEN, ""), f"give --state-dir, or set {TOKEN}"
    else:
        address, token = known(state_dir)
        address = api or address
        remedy = f"{state_dir / 'api.json'} is not that node's; start the node again"
    try:
        request = urllib.request.Request(
            f"http://{address}/api/v1/{path}",
            data=data,
            headers={"Authorization": f"Bearer {token}", **(headers or {})},
            method=method,
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=timeout) as answer:
            yield answer
    except urllib.error.HTTPError as error:
        with error:
            reason = _reason(error)
        if error.code == 401:
            raise Unreachable(f"the node at {address} refuses the token: {remedy}") from None
        if error.code == 413:
            raise Refused("that is more than the node reads at once, 16 MiB") from None
        if error.code in (400, 507) and reason:
            raise Refused(reason) from None
        raise Unreachable(f"{address} answers {error.code}; is it a gossip node?") from None
    except GossipError:
        raise  # what was done with the answer went wrong
    except (OSError, ValueError, HTTPException) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split())  # may quote what answered
        raise Unreachable(f"no node answers at {address}: {reason}; is it still running?") from None


def known(state_dir: Path) -> tuple[str, str]:
    """Address and token of the local API of the node with this state directory. Raises Unreachable,
    without asking it."""
    path = state_dir / "api.json"
    try:
        found = json.loads(path.read_text())
        address, token = str(found["address"]), str(found["token"])
    except FileNotFoundError:
        raise Unreachable(
            f"no node runs with {state_dir}: there is no {path}; start one with "
            f"gossip run TARGET --state-dir {state_dir}"
        ) from None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise Unreachable(
            f"{path} does not say where the node is ({error!r}); start the node again"
        ) from None
    return address, token


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"])
    except (OSError, ValueError, LookupError, TypeError, HTTPException):
        return ""


def show_bans(found: list[dict[str, Any]]) -> None:
    """Print whom a node keeps out, for people."""
    for entry in found:
        left = "for good" if entry["seconds"] is None else f"{entry['seconds']:,.0f} s"
        print(f"{entry['who']}  {left}  {entry['reason']}")


def show(found: dict[str, Any]) -> None:
    """Print a status for people."""
    print(f"id          {found['id']}")
    print(f"address     {found['address']}")
    print(f"up          {found['age_seconds']:.0f} s")
    print(f"samples     {found['samples']:,}")
    print(f"exchanges   {found['exchanges']:,}")
    print(f"sent        {found['bytes_sent']:,} bytes")
    print(f"received    {found['bytes_received']:,} bytes")
    if found.get("quiet_until") is not None:
        print(f"quiet       until {found['quiet_until'][-5:]}")
    if found.get("saved") is not None:
        print(f"saved       {_saved(found['saved'])}")
    for name, value in found["metrics"].items():
        print(f"{name:<11} {'not finite' if value is None else f'{value:.4f}'}")
    print(f"peers       {len(found['peers'])}")
    for peer in found["peers"]:
        print(
            f"  {peer['id'][:8]}  {peer['address']:<21}  rtt {1000 * peer['rtt']:.1f} ms  "
            f"{peer['exchanges']:,} exchanges"
        )


def _saved(saved: dict[str, Any]) -> str:
    ago, trouble = saved["seconds_ago"], saved["trouble"]
    when = "not yet" if ago is None else f"{ago:.0f} s ago"
    return when if trouble is None else f"{when}, and not since: {trouble}; learning goes on"


def show_peers(found: dict[str, Any]) -> None:
    """Print neighbours and roster for people."""
    names = {entry["id"]: entry["name"] for entry in found["roster"]}
    print(f"neighbours: {len(found['neighbours'])}")
    _print_columns(
        ["name", "id", "state", "path", "rtt", "loss", "sent", "received"],
        [
            [
                names.get(link["id"], ""),
                link["id"][:8],
                link["state"],
                f"{link['path']} {link['address']}",
                f"{1000 * link['rtt']:.1f} ms",
                f"{link['loss']:.0%}",
                _bytes(link["bytes_sent"]),
                _bytes(link["bytes_received"]),
            ]
            for link in found["neighbours"]
        ],
    )
    shown = "  ".join(f"{name} {value:.4f}" for name, value in found["metrics"].items())
    print(f"\nroster: {len(found['roster'])}" + (f", on average {shown}" if shown else ""))
    _print_columns(
        ["name", "id", "address", "samples", "metrics", "links", "seen"],
        [
            [
                entry["name"],
                entry["id"][:8],
                entry["address"],
                f"{entry['samples']:,}",
                " ".join(f"{name}={_short(value)}" for name, value in entry["metrics"].items()),
                "left" if entry["left"] else str(entry["links"]),
                "this node" if entry["id"] == found["id"] else f"{entry['age_seconds']:.0f} s ago",
            ]
            for entry in found["roster"]
        ],
    )


def _print_columns(titles: list[str], rows: list[list[str]]) -> None:
    if not rows:
        return
    table = [titles, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(f"  {'  '.join(cells).rstrip()}")


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"


def _short(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
