"""I/O: the commands that ask a running node: how it is, whom it knows, whom to keep out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gossip.console import (
    CONFIGURATION,
    UNREACHABLE,
    Duration,
    as_json,
    fail,
    file,
    of_node,
    the_node,
)


@click.command()
@of_node
def status(state_dir: Path | None, api: str | None, json_: bool) -> None:
    """Ask a running node how it is.

    \b
    gossip status --state-dir node0
    """
    from gossip import client

    _tell(client.status, client.show, state_dir, api, json_)


@click.command()
@of_node
def peers(state_dir: Path | None, api: str | None, json_: bool) -> None:
    """Ask a running node whom it knows: its neighbours, and all peers on the network.

    \b
    gossip peers --state-dir node0
    """
    from gossip import client

    _tell(client.peers, client.show_peers, state_dir, api, json_)


def _tell(
    ask: Callable[[Path | None, str | None], dict[str, Any]],
    show: Callable[[dict[str, Any]], None],
    state_dir: Path | None,
    api: str | None,
    json_: bool,
) -> None:
    from gossip.client import Unreachable

    the_node(state_dir, api)
    try:
        found = ask(state_dir, api)
    except Unreachable as error:
        fail(error, UNREACHABLE)
    if json_:
        click.echo(json.dumps(found))
    else:
        show(found)


@click.command()
@click.argument("who", required=False, metavar="[PEER|INVITATION]")
@click.option("--for", "seconds", type=Duration(), metavar="TIME", help="How long.  [for good]")
@click.option("--list", "list_", is_flag=True, help="Show who is banned.")
@click.option("--lift", metavar="PEER|INVITATION", help="Let somebody in again.")
@file("--state-dir", metavar="DIR", help="The node's.")
@click.option("--api", metavar="H:P", help="The node's local API.  Token: $GOSSIP_API_TOKEN")
@as_json
def ban(
    who: str | None,
    seconds: float | None,
    list_: bool,
    lift: str | None,
    state_dir: Path | None,
    api: str | None,
    json_: bool,
) -> None:
    """Have a running node keep somebody out, at once: a peer, or all who came with an invitation.

    \b
    gossip ban PEER --for 1h --state-dir node0
    gossip ban --list --state-dir node0
    """
    from gossip import client

    if (who is not None) + list_ + (lift is not None) != 1:
        raise click.UsageError("say whom to ban, or --list, or --lift somebody")
    the_node(state_dir, api)
    try:
        if who is not None:
            found = client.ban(state_dir, api, who, seconds)
        elif lift is not None:
            found = client.lift(state_dir, api, lift)
        else:
            found = client.bans(state_dir, api)
    except client.Unreachable as error:
        fail(error, UNREACHABLE)
    except client.Refused as error:
        fail(error, CONFIGURATION)
    if json_:
        click.echo(json.dumps({"bans": found}))
    else:
        client.show_bans(found)
