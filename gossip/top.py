"""I/O: the command `gossip top`, a running node as it is this second."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gossip.console import INTERRUPTED, UNREACHABLE, fail, of_node, the_node

if TYPE_CHECKING:
    from rich.console import Group

EVERY = 1.0  # seconds
RATES = ("samples", "exchanges", "bytes_sent", "bytes_received")

Found = dict[str, Any]


@click.command()
@of_node
def top(state_dir: Path | None, api: str | None, json_: bool) -> None:
    """Watch a running node in the terminal, until Ctrl-C.

    With --json its status and its peers, once.

    \b
    gossip top --state-dir node0
    """
    from gossip.client import Unreachable

    the_node(state_dir, api)
    if not json_ and not sys.stdout.isatty():
        raise click.UsageError("this draws on a terminal; elsewhere use --json")
    try:
        if json_:
            click.echo(json.dumps(_ask(state_dir, api)))
        else:
            _watch(state_dir, api)
    except Unreachable as error:
        fail(error, UNREACHABLE)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _ask(state_dir: Path | None, api: str | None) -> Found:
    from gossip import client

    return {"status": client.status(state_dir, api), "peers": client.peers(state_dir, api)}


def _watch(state_dir: Path | None, api: str | None) -> None:
    from rich.live import Live

    found = _ask(state_dir, api)
    with Live(view(found, {}), screen=True, auto_refresh=False) as live:
        while True:
            before = found["status"]
            time.sleep(EVERY)
            found = _ask(state_dir, api)
            live.update(view(found, rates(before, found["status"])), refresh=True)


def rates(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, float]:
    """What is counted, a second, by the node's own clock; empty if it was started anew."""
    seconds = after["age_seconds"] - before["age_seconds"]
    if seconds <= 0:
        return {}
    return {name: (after[name] - before[name]) / seconds for name in RATES}


def view(found: Found, speed: Mapping[str, float]) -> Group:
    """What stands on the screen."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    status, known = found["status"], found["peers"]
    metrics = "  ".join(
        f"{name} {'not finite' if value is None else f'{value:.4f}'}"
        for name, value in status["metrics"].items()
    )
    head = Table.grid(padding=(0, 2))
    head.add_row("node", Text(f"{status['id'][:8]} at {status['address']}"))
    head.add_row("up", f"{status['age_seconds']:,.0f} s")
    for name in RATES:
        rate = f"{speed[name]:,.1f} a second" if name in speed else ""
        head.add_row(name.replace("_", " "), f"{status[name]:,}", rate)
    names = {entry["id"]: entry["name"] for entry in known["roster"]}
    table = Table("neighbour", "name", "state", "path", "rtt", "loss", box=None, pad_edge=False)
    for link in known["neighbours"]:
        cells = (
            link["id"][:8],
            names.get(link["id"], ""),
            link["state"],
            link["path"],
            f"{1000 * link['rtt']:.1f} ms",
            f"{link['loss']:.0%}",
        )
        table.add_row(*map(Text, cells))
    # No markup: names are of peers.
    rest = Text(f"{len(known['roster'])} on the network; Ctrl-C to end", style="dim")
    return Group(head, Text(metrics, style="bold"), Text(), table, Text(), rest)
