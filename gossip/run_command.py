"""I/O: the command that trains, `gossip run`.

Nothing here imports torch before the command runs, so that its help answers at once.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gossip.console import (
    CONFIGURATION,
    INTERRUPTED,
    UNEXPECTED,
    Seconds,
    as_json,
    fail,
    file,
    network_key,
    options,
    profile,
)

if TYPE_CHECKING:
    from gossip import daemon


def shard(context: click.Context, parameter: click.Parameter, text: str) -> tuple[int, int]:
    """Read `i/n` with 0 <= i < n."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise click.BadParameter(f"{text!r} is not i/n with 0 <= i < n, for example 0/5")
    return int(index), int(count)


@click.command()
@click.argument("target")
@network_key("The network to be in; a second one while it is replaced.", multiple=True)
@file(
    "--invitation",
    envvar="GOSSIP_INVITATION",
    help="What lets it in where invitations are asked for.  [$GOSSIP_INVITATION]",
)
@click.option("--listen", metavar="H:P", help="The swarm's port, UDP and TCP.  [a free port]")
@click.option("--advertise", metavar="H:P", help="Where others reach it, if not there.")
@click.option("--join", multiple=True, metavar="H:P", help="A peer to begin with; repeatable.")
@click.option("--lan/--no-lan", default=None, help="Find others on the local network.  [--lan]")
@click.option(
    "--shard", default="0/1", callback=shard, metavar="I/N", help="Which part of the data."
)
@click.option("--option", multiple=True, callback=options, metavar="NAME=VALUE", help="For TARGET.")
@file("--config", help="Settings in TOML.")
@file("--state-dir", metavar="DIR", help="Keeps the model.")
@click.option("--name", metavar="TEXT", help="What others see in `gossip peers`.  [the host's]")
@click.option("--api", metavar="H:P", help="The local API, loopback only.  [a free port]")
@click.option("--seed", type=int, help="Of the learner.")
@click.option("--seconds", type=Seconds(min=0), help="Stop after this long.")
@profile
@click.option("-v", "--verbose", is_flag=True, help="Show every event.")
@as_json
def run(
    target: str,
    shard: tuple[int, int],
    option: dict[str, str],
    config: Path | None,
    seconds: float | None,
    profile: Path | None,
    verbose: bool,
    json_: bool,
    **settings: Any,
) -> None:
    """Run a node that trains TARGET, `file.py:function` or `module:function`.

    \b
    gossip run models.digits:learner --shard 0/2 --listen 127.0.0.1:7946
    gossip run models.digits:learner --shard 1/2 --join 127.0.0.1:7946
    gossip run train.py:learner --network-key home.key
    """
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    settings["log_level"] = "info" if verbose else None
    for several in ("join", "network_key"):
        settings[several] = settings[several] or None
    try:
        outcome = _run(target, shard, option, config, settings, seconds, profile)
    except KeyboardInterrupt:
        fail("interrupted before the node was up", INTERRUPTED)
    if json_:
        click.echo(json.dumps(outcome.status))
    if outcome.interrupted:
        sys.exit(INTERRUPTED)


def _run(target: str, *arguments: Any) -> daemon.Outcome:
    from gossip import daemon
    from gossip.errors import GossipError
    from p2p import P2PError

    try:
        return daemon.run(target, *arguments)
    except daemon.TrainingFailed as error:
        fail(error, UNEXPECTED)
    except (GossipError, P2PError) as error:
        fail(error, CONFIGURATION)
