"""I/O: asks a running node through its local API. Standard library only: it must be quick."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

TIMEOUT = 5.0  # seconds; a node that trains answers late, but not that late. A guess.
TOKEN = "GOSSIP_API_TOKEN"


class Unreachable(Exception):
    """No node answers there; the text says what to do."""


def status(state_dir: Path | None, api: str | None) -> dict[str, Any]:
    """The status of the node with this state directory or at this address. Raises Unreachable."""
    address, token = (api, os.environ.get(TOKEN, "")) if api else ("", "")
    if state_dir is not None:
        try:
            known = json.loads((state_dir / "api.json").read_text())
        except FileNotFoundError:
            raise Unreachable(
                f"no node runs with {state_dir}: there is no {state_dir / 'api.json'}; start one "
                f"with gossip run TARGET --state-dir {state_dir}"
            ) from None
        except (OSError, ValueError) as error:
            raise Unreachable(f"cannot read {state_dir / 'api.json'}: {error}") from None
        address, token = address or known["address"], known["token"]
    request = urllib.request.Request(
        f"http://{address}/api/v1/status", headers={"Authorization": f"Bearer {token}"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=TIMEOUT) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except urllib.error.HTTPError as error:
        if error.code == 401:
            raise Unreachable(
                f"the node at {address} wants its token: give --state-dir, or set {TOKEN}"
            ) from None
        raise Unreachable(f"{address} answers {error.code}; is it a gossip node?") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
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
        print(f"{name:<11} {value:.4f}")
    print(f"peers       {len(found['peers'])}")
    for peer in found["peers"]:
        print(
            f"  {peer['id'][:8]}  {peer['address']:<21}  rtt {1000 * peer['rtt']:.1f} ms  "
            f"{peer['exchanges']:,} exchanges"
        )
