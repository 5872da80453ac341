"""I/O: the command `gossip`.

Results go to stdout, everything else to stderr. Nothing here imports torch before a command needs
to train, so that `gossip status` answers at once.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from gossip import daemon

UNEXPECTED, USAGE, CONFIGURATION, UNREACHABLE, INTERRUPTED = 1, 2, 3, 4, 130


def fail(message: object, code: int) -> NoReturn:
    """Say one line on stderr and exit."""
    click.echo(f"gossip: {message}", err=True)
    sys.exit(code)


def shard(context: click.Context, parameter: click.Parameter, text: str) -> tuple[int, int]:
    """Read `i/n` with 0 <= i < n."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise click.BadParameter(f"{text!r} is not i/n with 0 <= i < n, for example 0/5")
    return int(index), int(count)


def options(
    context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]
) -> dict[str, str]:
    """Read `NAME=VALUE` pairs."""
    pairs = [text.partition("=") for text in texts]
    for (name, equals, _), text in zip(pairs, texts, strict=True):
        if not name or not equals:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE, for example split=shards")
    return {name: value for name, _, value in pairs}


class Seconds(click.FloatRange):
    """A number of seconds; `FloatRange` lets NaN pass."""

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Refuse what is no number."""
        seconds: float = super().convert(value, param, ctx)
        if isnan(seconds):
            self.fail(f"{value!r} is not a number of seconds.", param, ctx)
        return seconds


as_json = click.option("--json", "json_", is_flag=True, help="Print one JSON object on stdout.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="gossip-learning")
def main() -> None:
    """Train one model together with peers, without a server."""


@main.command()
@click.argument("target")
@click.option(
    "--network-key",
    type=click.Path(path_type=Path),
    multiple=True,
    envvar="GOSSIP_NETWORK_KEY",
    metavar="FILE",
    help="The network to be in; a second one while it is replaced.  [$GOSSIP_NETWORK_KEY]",
)
@click.option("--listen", metavar="H:P", help="The swarm's port, UDP and TCP.  [a free port]")
@click.option("--advertise", metavar="H:P", help="Where others reach it, if not there.")
@click.option("--join", multiple=True, metavar="H:P", help="A peer to begin with; repeatable.")
@click.option("--lan/--no-lan", default=None, help="Find others on the local network.  [--lan]")
@click.option(
    "--shard", default="0/1", callback=shard, metavar="I/N", help="Which part of the data."
)
@click.option("--option", multiple=True, callback=options, metavar="NAME=VALUE", help="For TARGET.")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="Settings in TOML.")
@click.option(
    "--state-dir", type=click.Path(path_type=Path), metavar="DIR", help="Keeps the model."
)
@click.option("--api", metavar="H:P", help="The local API, loopback only.  [a free port]")
@click.option("--seed", type=int, help="Of the learner.")
@click.option("--seconds", type=Seconds(min=0), help="Stop after this long.")
@click.option("-v", "--verbose", is_flag=True, help="Show every event.")
@as_json
def run(
    target: str,
    shard: tuple[int, int],
    option: dict[str, str],
    config: Path | None,
    seconds: float | None,
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
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, stream=sys.stderr, format="%(message)s"
    )
    for several in ("join", "network_key"):
        settings[several] = settings[several] or None
    try:
        outcome = _run(target, shard, option, config, settings, seconds)
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


@main.command()
@click.option("--state-dir", type=click.Path(path_type=Path), metavar="DIR", help="The node's.")
@click.option("--api", metavar="H:P", help="The node's local API.  Token: $GOSSIP_API_TOKEN")
@as_json
def status(state_dir: Path | None, api: str | None, json_: bool) -> None:
    """Ask a running node how it is.

    \b
    gossip status --state-dir node0
    """
    from gossip import client

    if state_dir is None and api is None:
        raise click.UsageError("say which node: --state-dir DIR or --api H:P")
    try:
        found = client.status(state_dir, api)
    except client.Unreachable as error:
        fail(error, UNREACHABLE)
    if json_:
        click.echo(json.dumps(found))
    else:
        client.show(found)


@main.group()
def key() -> None:
    """Network keys: who has one is in the network."""


@key.command()
@click.argument("file", type=click.Path(path_type=Path))
@as_json
def new(file: Path, json_: bool) -> None:
    """Begin a network: write a new key to FILE, for you alone to read.

    \b
    gossip key new home.key
    """
    from p2p import network_key
    from p2p.errors import IdentityError

    try:
        made = network_key.create(file)
    except IdentityError as error:
        fail(error, CONFIGURATION)
    if json_:
        click.echo(json.dumps({"network": made.id.hex(), "file": str(file)}))
    else:
        click.echo(f"{file} holds the key of network {made.id.hex()}; give a copy to each member")


@main.command()
@click.option("--nodes", type=click.IntRange(2, 64), default=5, show_default=True)
@click.option("--seconds", type=Seconds(min=1), default=20.0, show_default=True)
@as_json
def demo(nodes: int, seconds: float, json_: bool) -> None:
    """Start a swarm on this machine that learns handwritten digits.

    Every node is a process of its own that sees only two of the ten digits (fewer nodes: more), so
    alone it cannot tell the others apart.
    """
    from gossip import demo as swarm

    # Otherwise SIGTERM would end this process alone and leave the nodes to themselves.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        outcome = swarm.run(nodes, seconds)
    except swarm.DemoFailed as error:
        fail(error, UNEXPECTED)
    except KeyboardInterrupt:
        fail("interrupted; all nodes are stopped", INTERRUPTED)
    if json_:
        click.echo(json.dumps(outcome))
    else:
        swarm.show(outcome)
