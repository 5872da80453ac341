"""I/O: asks a running node through its local API. Standard library only: it must be quick."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

TIMEOUT = 5.0  # seconds; a node that trains answers late, but not that late. A guess.
TOKEN = "GOSSIP_API_TOKEN"


class Unreachable(Exception):
    """No node answers there; the text says what to do."""


def status(state_dir: Path | None, api: str | None) -> dict[str, Any]:
    """The status of the node with this state directory or at this address. Raises Unreachable."""
    return _ask("status", "exchanges", state_dir, api)


def peers(state_dir: Path | None, api: str | None) -> dict[str, Any]:
    """Neighbours and roster of that node. Raises Unreachable."""
    return _ask("peers", "roster", state_dir, api)


def _ask(path: str, key: str, state_dir: Path | None, api: str | None) -> dict[str, Any]:
    address, token, remedy = _find(state_dir, api)
    found = _fetch(f"{address}/api/v1/{path}", address, token, remedy)
    if not isinstance(found, dict) or key not in found:
        raise Unreachable(f"what answers at {address} is not a gossip node; is it its --api?")
    return found


def _find(state_dir: Path | None, api: str | None) -> tuple[str, str, str]:
    """The node's address and token, and what to do if it refuses the token."""
    if state_dir is None:
        assert api is not None
        return api, os.environ.get(TOKEN, ""), f"give --state-dir, or set {TOKEN}"
    path = state_dir / "api.json"
    try:
        known = json.loads(path.read_text())
        address, token = api or str(known["address"]), str(known["token"])
    except FileNotFoundError:
        raise Unreachable(
            f"no node runs with {state_dir}: there is no {path}; start one with "
            f"gossip run TARGET --state-dir {state_dir}"
        ) from None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise Unreachable(
            f"{path} does not say where the node is ({error!r}); start the node again"
        ) from None
    return address, token, f"{path} is not that node's; start the node again"


def _fetch(url: str, address: str, token: str, remedy: str) -> Any:
    try:
        request = urllib.request.Request(
            f"http://{url}", headers={"Authorization": f"Bearer {token}"}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=TIMEOUT) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 401:
            raise Unreachable(f"the node at {address} refuses the token: {remedy}") from None
        raise Unreachable(f"{address} answers {error.code}; is it a gossip node?") from None
    except (OSError, ValueError, HTTPException) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split())  # may quote what answered
        raise Unreachable(f"no node answers at {address}: {reason}; is it still running?") from None


def show(found: dict[str, Any]) -> None:
    """Print a status for people."""
    print(f"id          {found['id']}")
    print(f"address     {found['address']}")
    print(f"up          {found['age_seconds']:.0f} s")
    print(f"samples     {found['samples']:,}")
    print(f"exchanges   {found['exchanges']:,}")
    print(f"sent        {found['bytes_sent']:,} bytes")
    print(f"received    {found['bytes_received']:,} bytes")
    for name, value in found["metrics"].items():
        print(f"{name:<11} {'not finite' if value is None else f'{value:.4f}'}")
    print(f"peers       {len(found['peers'])}")
    for peer in found["peers"]:
        print(
            f"  {peer['id'][:8]}  {peer['address']:<21}  rtt {1000 * peer['rtt']:.1f} ms  "
            f"{peer['exchanges']:,} exchanges"
        )


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
    print(f"\nroster: {len(found['roster'])}")
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
