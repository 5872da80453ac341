"""I/O: an experiment with real daemons on this machine, and the simulation beside it.

Every node is a process of `gossip run` on loopback. How fast they train, this machine decides; so
the simulation that is set beside them is told the rate at which they did, lasts until as many
exchanges have been made, and sends its packets over links as quick as loopback. What is left is
what the simulator gets wrong.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from gossip.errors import ConfigError
from gossip.processes import Daemon, kill, start
from gossip.target import build, load
from sims.churn import Change
from sims.conditions import NetworkConfig
from sims.experiment import Experiment, joined
from sims.simulation import Simulation
from sims.stage import Stage
from sims.topology import TopologyConfig

LOOPBACK = NetworkConfig(latency=(5e-5, 3e-4), up=1e9)  # seconds as measured by pings of idle nodes
MOST = 64  # processes of 250 MB and more
MEETING = 2.0  # seconds after the last has started, until links are there and models adopted
PATIENCE = 5.0  # times as long as the daemons took, until the simulation is given up


@dataclass(frozen=True, slots=True)
class Side:
    """What one of the two came to."""

    accuracy_mean: float
    accuracy_min: float
    exchanges: int
    bytes: int  # sent, of all nodes
    seconds: float  # since all of them are there
    round_seconds: float


def side_by_side(experiment: Experiment) -> tuple[Side, Side]:
    """Run an experiment with daemons and in virtual time.

    Raises ConfigError for what daemons on loopback cannot do; `processes.DaemonFailed`.
    """
    _refuse(experiment)
    torch.set_num_threads(1)
    Stage(experiment)  # says all that is wrong before any process starts
    console = Console(stderr=True)
    early, late = _daemons(experiment, console)
    each = build(load(experiment.learner), 0, experiment.nodes, experiment.seed, experiment.texts)
    real = _real(early, late, each.train())
    console.print("the same in virtual time ...")
    ages = [status["age_seconds"] for status in late]
    return real, _virtual(experiment, real, [max(ages) - age for age in ages])


def _refuse(experiment: Experiment) -> None:
    reasons = []
    if experiment.algorithm != "shared-reference" or experiment.attack:
        reasons.append("daemons run our own algorithm, and none of them lies")
    if experiment.topology != TopologyConfig():
        reasons.append(f"daemons make their own overlay, no {experiment.topology.kind}")
    if experiment.churn.kind != "none" or experiment.events or experiment.devices:
        reasons.append("nothing befalls daemons, and all run on this machine")
    if experiment.network != NetworkConfig():
        reasons.append("daemons talk over loopback as it is: leave [network] out")
    if experiment.nodes > MOST:
        reasons.append(f"{experiment.nodes} nodes are as many processes: take at most {MOST}")
    if reasons:
        raise ConfigError(f"--sockets: {joined(reasons)}")


def _daemons(
    experiment: Experiment, console: Console
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What they said when all had met, and their last words."""
    nodes = experiment.nodes
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gossip-sim-")))
        settings = directory / "node.toml"
        settings.write_text(_settings(experiment))
        more = ["--config", str(settings), "--seed", str(experiment.seed), "--no-lan"]
        for name, value in experiment.texts.items():
            more += ["--option", f"{name}={value}"]
        daemons = [
            Daemon(directory, index, nodes, experiment.seconds, experiment.learner, *more)
            for index in range(nodes)
        ]
        stack.callback(kill, daemons)
        console.print(f"starting {nodes} daemons ...")
        start(daemons)
        console.print(f"they are up; they learn for {experiment.seconds:g} s ...")
        time.sleep(MEETING)
        early = [daemon.known for daemon in daemons if daemon.ask()]
        time.sleep(max(0.0, experiment.seconds - MEETING))
        for daemon in daemons:
            assert daemon.process is not None
            daemon.process.terminate()
        return early, [daemon.stop() for daemon in daemons]


def _settings(experiment: Experiment) -> str:
    codec = {name: v for name, v in experiment.settings.items() if name in ("density", "bits")}
    law = {name: v for name, v in experiment.settings.items() if name not in codec}
    lines = []
    for table, values in (("codec", codec), ("density", law)):
        if values:
            lines.append(f"[agent.exchange.{table}]")
            lines += [f"{name} = {value:g}" for name, value in values.items()]
    return "\n".join(lines)


def _real(early: Sequence[dict[str, Any]], late: Sequence[dict[str, Any]], samples: int) -> Side:
    accuracies = [status["metrics"].get("accuracy", float("nan")) for status in late]
    passed = [_grown("age_seconds", *pair) for pair in zip(early, late, strict=True)]
    # Not since the beginning: who adopts a neighbour's model takes over its samples as well.
    rounds = sum(_grown("samples", *pair) for pair in zip(early, late, strict=True)) / samples
    return Side(
        accuracy_mean=sum(accuracies) / len(accuracies),
        accuracy_min=min(accuracies),
        exchanges=sum(status["exchanges"] for status in late),
        bytes=sum(status["bytes_sent"] for status in late),
        seconds=min(status["age_seconds"] for status in late),
        round_seconds=sum(passed) / rounds,
    )


def _grown(key: str, before: dict[str, Any], after: dict[str, Any]) -> float:
    return float(after[key] - before[key])


def _virtual(experiment: Experiment, real: Side, starts: Sequence[float]) -> Side:
    """The same, with every node starting as much later than the first as its daemon did: who comes
    while others have trained already is sent their models."""
    twin = replace(
        experiment,
        network=LOOPBACK,
        round_seconds=real.round_seconds,
        seconds=real.seconds + max(starts),
        join_over=0.0,
    )
    stage = Stage(twin)
    stage.plan = sorted(Change(at, node, up=True) for node, at in enumerate(starts))
    simulation = stage.simulation()
    stage.fill(simulation)
    limit = PATIENCE * real.seconds
    if not simulation.run_until(lambda: _exchanges(simulation) >= real.exchanges, limit):
        raise ConfigError(
            f"--sockets: in {limit:.0f} virtual seconds the simulation made "
            f"{_exchanges(simulation):,} exchanges, and the daemons {real.exchanges:,}: this "
            "machine has too little time for so many daemons, or they hardly met"
        )
    report = simulation.report()
    return Side(
        accuracy_mean=report.accuracy_mean,
        accuracy_min=report.accuracy_min,
        exchanges=report.exchanges,
        bytes=simulation.network.sent,
        seconds=report.virtual_seconds - max(starts),
        round_seconds=real.round_seconds,
    )


def _exchanges(simulation: Simulation) -> int:
    return sum(node.agent.stats.exchanges for node in simulation.live if node.agent is not None)
