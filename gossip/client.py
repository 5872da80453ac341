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
    if state_dir is None:
        assert api is not None
        return _ask(api, os.environ.get(TOKEN, ""), f"give --state-dir, or set {TOKEN}")
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
    return _ask(address, token, f"{path} is not that node's; start the node again")


def _ask(address: str, token: str, remedy: str) -> dict[str, Any]:
    try:
        request = urllib.request.Request(
            f"http://{address}/api/v1/status", headers={"Authorization": f"Bearer {token}"}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=TIMEOUT) as answer:
            found = json.load(answer)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 401:
            raise Unreachable(f"the node at {address} refuses the token: {remedy}") from None
        raise Unreachable(f"{address} answers {error.code}; is it a gossip node?") from None
    except (OSError, ValueError, HTTPException) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split())  # may quote what answered
        raise Unreachable(f"no node answers at {address}: {reason}; is it still running?") from None
    if not isinstance(found, dict) or "exchanges" not in found:
        raise Unreachable(f"what answers at {address} is not a gossip node; is it its --api?")
    return found


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
