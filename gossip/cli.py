"""I/O: the command `gossip`.

Results go to stdout, everything else to stderr. Nothing here imports torch before a command needs
to train, so that `gossip status` answers at once.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Callable
from math import isnan
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from gossip.console import (
    CONFIGURATION,
    INTERRUPTED,
    UNEXPECTED,
    UNREACHABLE,
    as_json,
    fail,
    of_node,
    the_node,
)
from gossip.model_commands import model
from gossip.node_commands import dashboard, predict

if TYPE_CHECKING:
    from gossip import daemon


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


class Duration(click.ParamType):  # type: ignore[type-arg]
    """`90`, `90s`, `15m`, `1h` or `7d`, in seconds."""

    name = "duration"
    units = MappingProxyType({"s": 1, "m": 60, "h": 3600, "d": 86400})

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Refuse what is no duration above 0."""
        if isinstance(value, int | float):
            return value
        number, unit = (value[:-1], value[-1:]) if value[-1:] in self.units else (value, "s")
        if not number.isascii() or not number.isdecimal() or not 0 < int(number) < 10**9:
            self.fail(f"{value!r} is not a duration, for example 90s, 15m, 1h or 7d", param, ctx)
        return float(int(number) * self.units[unit])


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
@click.option(
    "--invitation",
    type=click.Path(path_type=Path),
    envvar="GOSSIP_INVITATION",
    metavar="FILE",
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
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="Settings in TOML.")
@click.option(
    "--state-dir", type=click.Path(path_type=Path), metavar="DIR", help="Keeps the model."
)
@click.option("--name", metavar="TEXT", help="What others see in `gossip peers`.  [the host's]")
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
@of_node
def status(state_dir: Path | None, api: str | None, json_: bool) -> None:
    """Ask a running node how it is.

    \b
    gossip status --state-dir node0
    """
    from gossip import client

    _tell(client.status, client.show, state_dir, api, json_)


@main.command()
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


main.add_command(model)
main.add_command(predict)
main.add_command(dashboard)


@main.group()
def key() -> None:
    """Network keys: who has one is in the network."""


@key.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--admin", is_flag=True, help="Make a key that signs invitations instead.")
@as_json
def new(file: Path, admin: bool, json_: bool) -> None:
    """Begin a network: write a new key to FILE, for you alone to read.

    \b
    gossip key new home.key
    gossip key new admin.key --admin
    """
    from p2p import identity, network_key
    from p2p.errors import IdentityError

    try:
        if admin:
            peer = str(identity.create(file).id)
            found = {"admin": peer, "file": str(file)}
            line = f"{file} signs invitations; each member's settings name it: admins = [{peer!r}]"
            click.echo(json.dumps(found) if json_ else line)
            return
        made = network_key.create(file)
    except IdentityError as error:
        fail(error, CONFIGURATION)
    if json_:
        click.echo(json.dumps({"network": made.id.hex(), "file": str(file)}))
    else:
        click.echo(f"{file} holds the key of network {made.id.hex()}; give a copy to each member")


@main.command()
@click.option(
    "--network-key",
    type=click.Path(path_type=Path),
    required=True,
    envvar="GOSSIP_NETWORK_KEY",
    metavar="FILE",
    help="The network.  [$GOSSIP_NETWORK_KEY]",
)
@click.option(
    "--admin-key",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="Who invites: an admin key, or an inviter's identity.key.",
)
@click.option(
    "--invitation",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The inviter's own, if it is no admin.",
)
@click.option("--for", "peer", metavar="PEER", help="Who is invited.  [whoever has the line]")
@click.option(
    "--uses", type=click.IntRange(1, 1000), default=1, show_default=True, help="Peers it lets in."
)
@click.option("--expires", type=Duration(), default="7d", show_default=True, metavar="TIME")
@click.option("--role", type=click.Choice(["member", "inviter"]), default="member")
@as_json
def invite(json_: bool, **wanted: Any) -> None:
    """Invite somebody into a network whose members ask for an invitation.

    Prints one line of text, to be handed over like a password unless it is --for somebody.

    \b
    gossip invite --network-key home.key --admin-key admin.key > guest.invitation
    gossip run train.py:learner --network-key home.key --invitation guest.invitation
    """
    from gossip import inviting
    from p2p import P2PError

    try:
        invitation, text = inviting.invite(**wanted)
    except P2PError as error:
        fail(error, CONFIGURATION)
    if json_:
        click.echo(json.dumps({"invitation": text} | invitation))
    else:
        click.echo(text)
        click.echo(
            f"for {invitation['for'] or 'whoever has it'}; gossip ban {invitation['name']} "
            "revokes it",
            err=True,
        )


@main.command()
@click.argument("who", required=False, metavar="[PEER|INVITATION]")
@click.option("--for", "seconds", type=Duration(), metavar="TIME", help="How long.  [for good]")
@click.option("--list", "list_", is_flag=True, help="Show who is banned.")
@click.option("--lift", metavar="PEER|INVITATION", help="Let somebody in again.")
@click.option("--state-dir", type=click.Path(path_type=Path), metavar="DIR", help="The node's.")
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


@main.group()
def audit() -> None:
    """A node's log of who came, who was refused, and what was decided."""


@audit.command()
@click.argument("path", required=False, type=click.Path(path_type=Path), metavar="[FILE|DIR]")
@click.option("--state-dir", type=click.Path(path_type=Path), metavar="DIR", help="The node's.")
@as_json
def verify(path: Path | None, state_dir: Path | None, json_: bool) -> None:
    """Check that a log is as it was written; name the first line that is not.

    With --state-dir, by the node's own identity; else by whoever the first line names.

    \b
    gossip audit verify --state-dir node0
    """
    from gossip import audit as log
    from gossip.errors import AuditBroken, ConfigError
    from p2p import IdentityError, identity

    if (path is None) == (state_dir is None):
        raise click.UsageError("say which log: --state-dir DIR, or a file or directory")
    try:
        signer = identity.load(state_dir / "identity.key").id if state_dir else None
        found = log.check(state_dir / log.DIRECTORY if state_dir else path or Path(), signer)
    except AuditBroken as error:
        fail(error, UNEXPECTED)
    except (ConfigError, IdentityError) as error:
        fail(error, CONFIGURATION)
    shown = {name: getattr(found, name) for name in ("files", "lines", "checkpoints", "unsigned")}
    if json_:
        click.echo(json.dumps(shown | {"signer": found.signer}))
    else:
        click.echo(
            f"{found.lines:,} lines are as they were written, all but the last {found.unsigned:,} "
            f"signed by {found.signer}"
        )


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
