"""I/O: the command `gossip events`, which follows a running node over its event stream.

Nothing is asked again: who comes late, or reads more slowly than the node tells, misses what was
told meanwhile (`gossip.observer`).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from gossip.console import INTERRUPTED, UNREACHABLE, fail, of_node, the_node

PING = 30.0  # seconds without a word after which a node is asked whether it is there; as it does
LOST = "lost the node at {}: the connection broke; is it still running?"
REFUSALS = {
    401: "the node at {} refuses the token: give --state-dir, or set GOSSIP_API_TOKEN",
    503: "the node at {} has no place for one more: it is leaving, or too many follow it",
}


@click.command()
@click.option("-v", "--verbose", is_flag=True, help="Show every event.")
@of_node
def events(state_dir: Path | None, api: str | None, json_: bool, verbose: bool) -> None:
    """Follow a running node until it ends: a line for each thing that people want to know.

    With --json every event is one object on a line of its own.

    \b
    gossip events --state-dir node0
    gossip events --state-dir node0 --json | jq 'select(.type == "peer_down")'
    """
    from gossip.client import Unreachable

    the_node(state_dir, api)
    try:
        asyncio.run(_print(state_dir, api, json_, verbose))
    except Unreachable as error:
        fail(error, UNREACHABLE)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


async def _print(state_dir: Path | None, api: str | None, json_: bool, verbose: bool) -> None:
    async for told in follow(state_dir, api):
        line = json.dumps(told) if json_ else shown(told, verbose)
        if line is not None:
            click.echo(line)
    click.echo("the node has ended", err=True)


async def follow(state_dir: Path | None, api: str | None) -> AsyncIterator[dict[str, Any]]:
    """What that node tells, until it ends. Raises Unreachable."""
    from gossip.client import TIMEOUT, TOKEN, Unreachable, known

    if state_dir is None:
        assert api is not None
        address, token = api, os.environ.get(TOKEN, "")
    else:
        address, token = known(state_dir)
        address = api or address
    import aiohttp  # late: where there is no node, that is said at once

    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession() as session:
        try:
            url = f"http://{address}/api/v1/events"
            connecting = session.ws_connect(url, headers=headers, heartbeat=PING)
            socket = await asyncio.wait_for(connecting, TIMEOUT)
        except aiohttp.WSServerHandshakeError as error:
            other = f"{{}} answers {error.status}; is it a gossip node?"
            raise Unreachable(REFUSALS.get(error.status, other).format(address)) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            reason = "it takes too long" if isinstance(error, TimeoutError) else str(error)
            raise Unreachable(
                f"no node answers at {address}: {' '.join(reason.split())}; is it still running?"
            ) from None
        click.echo(f"following the node at {address}", err=True)
        async with socket:
            async for message in socket:
                yield _object(message.data, address)
        if socket.close_code != aiohttp.WSCloseCode.OK:
            raise Unreachable(LOST.format(address))


def _object(text: object, address: str) -> dict[str, Any]:
    from gossip.client import Unreachable

    try:
        told = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise Unreachable(f"what {address} tells is no event; is it a gossip node?")
    return told


def shown(told: Mapping[str, Any], verbose: bool) -> str | None:
    """An event for people. None: it is no line of the log, and they did not ask for all."""
    if told.get("type") == "log":
        text = str(told.get("text"))
    elif verbose:
        rest = (f"{name}={_plain(value)}" for name, value in told.items() if name not in _SAID)
        text = f"{told.get('type')}  {' '.join(rest)}"
    else:
        return None
    # A peer may have chosen some of it.
    printable = "".join(each if each.isprintable() else "?" for each in text)
    at = told.get("time")
    clock = f"{datetime.fromtimestamp(at):%H:%M:%S}" if isinstance(at, int | float) else "--:--:--"
    return f"{clock}  {printable}"


_SAID = ("time", "type")


def _plain(value: object) -> str:
    return str(value["id"])[:8] if isinstance(value, dict) and "id" in value else str(value)
