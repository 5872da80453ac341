"""I/O: the command `gossip-sim`. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gossip import client
from gossip.console import CONFIGURATION, INTERRUPTED, UNEXPECTED, Seconds, as_json, fail
from gossip.run_command import options

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gossip.learner import Learner
    from sims.report import Report
    from sims.simulation import Simulation

SCENARIOS = ("steady", "churn", "partition")
ALGORITHMS = (
    "shared-reference",
    "isolated",
    "all-reduce",
    "d-psgd",
    "choco",
    "edge-choco",
    "ad-psgd",
    "el-local",
    "el-oracle",
    "push-sum",
    "noloco",
)
ATTACKS = ("sign-flip", "noise", "label-flip", "replay", "little")
TARGET = "models.digits:learner"
JOIN_OVER = 2.0  # virtual seconds in which the nodes start
STEPS = 20  # of the progress bar
EVALUATE_EVERY = 5.0  # virtual seconds, where somebody wants to see it; as often as real nodes do


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="gossip-learning")
def main() -> None:
    """Simulate a swarm in virtual time, with the agents and the bytes of real nodes."""


@main.command()
@click.argument("scenario", type=click.Choice(SCENARIOS))
@click.option("--nodes", type=click.IntRange(2, 65536), default=10, show_default=True)
@click.option("--seconds", type=Seconds(min=1, max=1e7), default=60.0, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--target", default=TARGET, show_default=True, metavar="T", help="The learner.")
@click.option("--option", multiple=True, callback=options, metavar="NAME=VALUE", help="For it.")
@click.option("--loss", type=click.FloatRange(0, 1, max_open=True), default=0.0, show_default=True)
@click.option("--peers", is_flag=True, help="Also show whom the first node knows at the end.")
@click.option(
    "--algorithm", type=click.Choice(ALGORITHMS), default=ALGORITHMS[0], show_default=True
)
@click.option("--set", "settings", multiple=True, callback=options, metavar="NAME=VALUE")
@click.option("--attack", type=click.Choice(ATTACKS), help="What attackers do.")
@click.option("--attackers", type=click.FloatRange(0, 1), default=0.2, show_default=True)
@as_json
def run(json_: bool, peers: bool, **settings: Any) -> None:
    """Run SCENARIO: steady, churn (nodes crash and come back) or partition.

    \b
    gossip-sim run churn --nodes 20 --seconds 60 --seed 7
    gossip-sim run steady --nodes 10 --option split=dirichlet --loss 0.1
    gossip-sim run steady --algorithm choco --set gamma=0.4
    gossip-sim run steady --attack sign-flip --attackers 0.2

    --set is for the algorithm: density and bits of ours, gamma of choco. With --attack, a share of
    the nodes lies, and the report is about the others.
    """
    from gossip.errors import GossipError

    try:
        report, known = _run(peers=peers, **settings)
    except GossipError as error:
        fail(error, CONFIGURATION)
    except KeyboardInterrupt:
        fail("interrupted", INTERRUPTED)
    if json_:
        values = asdict(report).items()  # a learner may have no accuracy, and JSON has no NaN
        found = {name: None if value != value else value for name, value in values}
        click.echo(json.dumps(found | ({"peers": known} if known else {})))
    else:
        show(report)
        if known:
            click.echo()
            client.show_peers(known)


@main.command()
@click.argument("target", metavar="LEARNER")
@click.option("--nodes", type=click.IntRange(1, 65536), default=16, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--option", multiple=True, callback=options, metavar="NAME=VALUE", help="For it.")
@click.option("--png", type=click.Path(path_type=Path), metavar="FILE", help="Draw it, too.")
@as_json
def data(
    target: str, nodes: int, seed: int, option: dict[str, str], png: Path | None, json_: bool
) -> None:
    """Show how LEARNER's data are divided among nodes.

    \b
    gossip-sim data models.digits:learner --option split=dirichlet --png digits.png
    """
    from gossip.errors import GossipError
    from gossip.target import build, load
    from sims import data as division

    try:
        function = load(target)
        found = division.counts(
            [build(function, index, nodes, seed, option) for index in range(nodes)]
        )
        if png is not None:
            division.draw(found, f"{target}, {nodes} nodes", png)
    except GossipError as error:
        fail(error, CONFIGURATION)
    skew = division.skew(found)
    if json_:
        click.echo(json.dumps({"samples": found.tolist(), "skew": skew}))
        return
    for index, row in enumerate(found):
        click.echo(f"node {index:<4} {row.sum():>7,}  {' '.join(f'{count:>5}' for count in row)}")
    click.echo(f"skew {skew:.2f} (0: everybody the same mixture; 1: nobody has what another has)")


def _run(
    scenario: str,
    nodes: int,
    seconds: float,
    seed: int,
    target: str,
    option: dict[str, str],
    loss: float,
    algorithm: str,
    settings: dict[str, str],
    attack: str | None,
    attackers: float,
    peers: bool,
) -> tuple[Report, dict[str, object] | None]:
    import torch
    from rich.console import Console
    from rich.progress import track

    from gossip import peers as whom
    from gossip.target import build, load
    from sims.algorithms import with_algorithm
    from sims.network import Link
    from sims.scenarios import SCENARIOS as plans
    from sims.simulation import Simulation, SimulationConfig

    torch.set_num_threads(1)  # models this small lose by more; and sums keep their order
    if target == TARGET:
        option = {"split": "shards", "classes": str(max(2, -(-10 // nodes))), **option}
    function = load(target)
    config = with_algorithm(
        SimulationConfig(evaluate_every=EVALUATE_EVERY if peers else inf), algorithm, settings
    )
    simulation = Simulation(seed, Link(loss=loss), config)
    makes = [partial(build, function, index, nodes, seed, option) for index in range(nodes)]
    _add(simulation, makes, attack, attackers, min(JOIN_OVER, seconds / 2))
    plans[scenario](simulation, seconds)
    console = Console(stderr=True)
    step = (seconds - simulation.now) / STEPS
    for _ in track(range(STEPS), scenario, console=console, transient=True):
        simulation.run(step)
    if all(node.hostile for node in simulation.live):
        fail("training ended in NaN on every node; lower the learning rate", UNEXPECTED)
    first = simulation.live[0].agent
    assert first is not None
    return simulation.report(), whom.peers(first.swarm, simulation.now) if peers else None


def _add(
    simulation: Simulation,
    makes: Sequence[Callable[[], Learner]],
    attack: str | None,
    attackers: float,
    seconds: float,
) -> None:
    """Let the nodes join one after another, liars among them."""
    from sims.attacks import hostile, liars

    lying = liars(simulation.seed, len(makes), attackers) if attack else []
    for index, make in enumerate(makes):
        if attack and index in lying:
            make = hostile(attack, make, simulation, index)
        simulation.add(make, hostile=index in lying)
        simulation.run(seconds / len(makes))


def show(report: Report) -> None:
    """Print a report for people."""
    for name, value in asdict(report).items():
        shown = f"{value:,.4g}" if isinstance(value, float) else str(value)
        print(f"{name.replace('_', ' '):<19} {shown}")
    sys.stdout.flush()
