"""I/O: the command `gossip-sim`. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gossip import client
from gossip.console import (
    CONFIGURATION,
    INTERRUPTED,
    UNEXPECTED,
    Seconds,
    as_json,
    fail,
    options,
    profile,
)
from sims.experiment import ALGORITHMS, ATTACKS
from sims.lab_commands import compare, replay, sweep, with_engine
from sims.topology import KINDS

if TYPE_CHECKING:
    from sims.engines import Engine
    from sims.experiment import Experiment
    from sims.report import Report

FLAGS = {  # of `run`, and what they set
    "nodes": "nodes",
    "seconds": "seconds",
    "seed": "seed",
    "target": "learner",
    "option": "options",
    "loss": "network.loss",
    "algorithm": "algorithm",
    "attack": "attack",
    "attackers": "attackers",
    "topology": "topology.kind",
}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="gossip-learning")
def main() -> None:
    """Simulate a swarm in virtual time, with the agents and the bytes of real nodes."""


for command in (sweep, compare, replay):
    main.add_command(command)


@main.command()
@click.argument("experiment", metavar="EXPERIMENT")
@click.option("--nodes", type=click.IntRange(2, 65536), help="How many.  [10]")
@click.option("--seconds", type=Seconds(min=1, max=1e7), help="Virtual ones.  [60]")
@click.option("--seed", type=int, help="Everything is drawn from it.  [0]")
@click.option("--target", metavar="T", help="The learner.  [models.digits:learner]")
@click.option("--option", multiple=True, callback=options, metavar="NAME=VALUE", help="For it.")
@click.option("--loss", type=click.FloatRange(0, 1, max_open=True), help="Of datagrams.  [0]")
@click.option("--algorithm", type=click.Choice(ALGORITHMS), help="[shared-reference]")
@click.option("--attack", type=click.Choice(ATTACKS), help="What attackers do.")
@click.option("--attackers", type=click.FloatRange(0, 1), help="Share of the nodes.  [0.2]")
@click.option("--topology", type=click.Choice(KINDS), help="Who may be linked.  [overlay]")
@click.option(
    "--set",
    "settings",
    multiple=True,
    callback=options,
    metavar="KEY=VALUE",
    help="Any key of an experiment; repeatable.",
)
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Make a run folder.")
@click.option("--figures/--no-figures", default=True, help="And report.html.  [--figures]")
@with_engine
@click.option("--sockets", is_flag=True, help="Run real daemons as well, and compare.")
@click.option("--peers", is_flag=True, help="Also show whom the first node knows at the end.")
@profile
@as_json
def run(
    experiment: str,
    settings: dict[str, str],
    out: Path | None,
    figures: bool,
    sockets: bool,
    peers: bool,
    engine: str,
    ray_address: str | None,
    profile: Path | None,
    json_: bool,
    **flags: Any,
) -> None:
    """Run EXPERIMENT: a file in TOML, or one of steady, churn (nodes crash and come back) and
    partition.

    \b
    gossip-sim run churn --nodes 20 --seconds 60 --seed 7
    gossip-sim run exp.toml --set nodes=200 --set topology.kind=torus --out runs/torus
    gossip-sim run steady --algorithm choco --set settings.gamma=0.4
    gossip-sim run steady --attack sign-flip --attackers 0.2
    gossip-sim run exp.toml --engine ray --ray-address 10.0.0.1:6379

    settings.NAME is of the algorithm: density and bits of ours, gamma of choco. With an attack, the
    report is about the honest nodes. With --out the folder gets metrics, models, figures and
    report.html; Ctrl-C leaves what there is, and the same command plays the run again. With
    --engine ray training is computed by Ray's workers, to the same result.
    """
    from gossip.errors import GossipError
    from sims.cluster import ray_rounds
    from sims.laboratory import Diverged

    if sockets and (out is not None or peers or profile is not None or engine != "local"):
        raise click.UsageError(
            "--sockets compares, and makes no folder: leave out --out, --peers, --profile, --engine"
        )
    if peers and out is not None:
        raise click.UsageError(
            "--peers has records carry metrics, which changes the bytes, and a folder is of the "
            "experiment as described: leave out --out or --peers"
        )
    try:
        described = _described(experiment, flags, settings)
        if sockets:
            _side_by_side(described, json_)
            return
        computed = ray_rounds(address=ray_address) if engine == "ray" else nullcontext()
        with computed as elsewhere:
            report, known, finished = _run(described, out, figures, peers, profile, elsewhere)
    except Diverged as error:
        fail(error, UNEXPECTED)
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
    if out is not None:
        click.echo(f"{out / 'report.html' if figures else out} shows it", err=True)
    if not finished:
        fail("interrupted; the report is of what there was", INTERRUPTED)


def _side_by_side(experiment: Experiment, json_: bool) -> None:
    import signal

    from rich.console import Console
    from rich.table import Table

    from gossip.processes import DaemonFailed
    from sims.sockets import side_by_side

    # Otherwise SIGTERM would end this process alone and leave the daemons to themselves.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        real, virtual = (asdict(side) for side in side_by_side(experiment))
    except DaemonFailed as error:
        fail(error, UNEXPECTED)
    if json_:
        click.echo(json.dumps({"daemons": real, "simulation": virtual}))
        return
    table = Table("", "daemons", "simulation", "difference")
    for name, value in real.items():
        share = f"{virtual[name] / value - 1:+.1%}" if value else ""
        table.add_row(name.replace("_", " "), f"{value:,.4g}", f"{virtual[name]:,.4g}", share)
    Console().print(table)


def _described(what: str, flags: dict[str, Any], settings: dict[str, str]) -> Experiment:
    from sims.experiment import read

    given = {FLAGS[name]: value for name, value in flags.items() if value not in (None, {})}
    return read(what, given, settings)


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
    experiment: Experiment,
    out: Path | None,
    figures: bool,
    peers: bool,
    profile: Path | None,
    engine: Engine | None,
) -> tuple[Report, dict[str, object] | None, bool]:
    from gossip import peers as whom
    from sims.laboratory import conduct

    outcome = conduct(
        experiment, out, figures=figures, records=peers, profile=profile, engine=engine
    )
    first = outcome.simulation.live[0].agent
    assert first is not None
    known = whom.peers(first.swarm, outcome.simulation.now) if peers else None
    return outcome.report, known, outcome.finished


def show(report: Report) -> None:
    """Print a report for people."""
    for name, value in asdict(report).items():
        shown = f"{value:,.4g}" if isinstance(value, float) else str(value)
        print(f"{name.replace('_', ' '):<19} {shown}")
    sys.stdout.flush()
