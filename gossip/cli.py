"""I/O: the command `gossip`.

Results go to stdout, everything else to stderr. Nothing here imports torch before a command needs
to train, so that `gossip status` answers at once.
"""

from __future__ import annotations

import json
import signal

import click

from gossip.access_commands import audit, invite, key
from gossip.config_commands import config
from gossip.console import INTERRUPTED, UNEXPECTED, Seconds, as_json, fail
from gossip.doctor_command import doctor
from gossip.events_commands import events
from gossip.model_commands import model
from gossip.node_commands import ban, peers, status
from gossip.prediction_commands import dashboard, predict
from gossip.project import new
from gossip.run_command import run
from gossip.service import service
from gossip.top import top


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="gossip-learning")
def main() -> None:
    """Train one model together with peers, without a server."""


for command in (
    new,
    run,
    status,
    peers,
    events,
    top,
    dashboard,
    predict,
    model,
    key,
    invite,
    ban,
    audit,
    config,
    doctor,
    service,
):
    main.add_command(command)


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
    from gossip.processes import DaemonFailed

    # Otherwise SIGTERM would end this process alone and leave the nodes to themselves.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        outcome = swarm.run(nodes, seconds)
    except DaemonFailed as error:
        fail(error, UNEXPECTED)
    except KeyboardInterrupt:
        fail("interrupted; all nodes are stopped", INTERRUPTED)
    if json_:
        click.echo(json.dumps(outcome))
    else:
        swarm.show(outcome)
