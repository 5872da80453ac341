"""What each learner gains from the swarm: alone, in a swarm of 16, and with all data in one place.

    python benchmarks/tasks.py [--check] [--only NAME ...] [-j N] [--json FILE]

Each row is one learner of `models` on its own natural split. Alone: each of the sixteen trains on
its part, and the mean of them counts, at the best of POINTS moments, since what has too little data
overfits. Swarm: the same nodes, real agents and real bytes in `sims.Simulation`; the mean and the
worst node at the end. Central: one node with all data, as many optimizer steps, each over as many
samples as the swarm's nodes see together in one, at most a quarter of the data (recommend: with
four times the learning rate, since a user is seen less often in a larger batch). All start from the
same weights.

`closed` is how far the swarm came from alone to central. `bytes` is how many times fewer were sent
than the same exchanges would have taken densely in float32; pings and records are counted. Where
users differ from node to node (recommend), central is the mean over the same users.

Gates: at least 80 % closed with at least 30 times fewer bytes. One is missed: text, which closes
45 % in 250 rounds, at 85 times fewer bytes. Rows that need espeak-ng or a
package index are left out, with a word, where there is none.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from time import process_time

import torch

from gossip.learner import Batches, TorchLearner
from models import digits, images, recommend, speech, tabular, text, timeseries, topics
from models.data.files import DataError
from p2p import LinkConfig, SwarmConfig
from sims.network import Link
from sims.simulation import Simulation, SimulationConfig

NODES, STEPS, LINKS = 16, 2, 5
LAN = Link(latency=(0.001, 0.005))
BEGIN = 8.0  # virtual seconds; links form in about five
POINTS = 5  # moments at which those alone are measured
SEED = 0
CLOSED, FEWER = 0.8, 30.0  # the gates
SHARE = 4  # a central batch is at most one part of so many of the data

Make = Callable[..., TorchLearner]


@dataclass(frozen=True, slots=True)
class Task:
    """A learner, and for how many rounds of STEPS steps it trains."""

    make: Make
    split: str
    metric: str = "accuracy"
    rounds: int = 200
    central: float | None = None
    """The learning rate with all data in one place, where the larger batch needs another."""


@dataclass(frozen=True, slots=True)
class Row:
    """What came out."""

    name: str
    split: str
    metric: str
    parameters: int
    alone: float
    swarm: float
    worst: float
    central: float
    fewer: float  # times, bytes
    megabytes: float  # sent per node
    seconds: float  # of one core

    @property
    def closed(self) -> float:
        """How far the swarm came from alone to central."""
        return (self.swarm - self.alone) / (self.central - self.alone)

    @property
    def passes(self) -> bool:
        """Whether both gates are met."""
        return self.closed >= CLOSED and self.fewer >= FEWER


def _two_classes(shard: int, shards: int, seed: int, steps: int) -> TorchLearner:
    """Two digits to each node; who is alone in the world has all."""
    return digits.learner(shard, shards, seed, steps=steps, split="shards" if shards > 1 else "iid")


TASKS = {
    "digits": Task(_two_classes, "2 classes"),
    "images": Task(
        partial(images.learner, model="resnet", split="dirichlet"), "Dirichlet 0.3", rounds=300
    ),
    "text": Task(text.learner, "module", "accuracy", 250),
    "topics": Task(topics.learner, "maintainer", "accuracy", 300),
    "speech cnn": Task(speech.learner, "speaker"),
    "speech gru": Task(partial(speech.learner, model="gru"), "speaker"),
    "recommend": Task(recommend.learner, "maintainer", "hit@10", 200, 4.0),
    "breast cancer": Task(partial(tabular.learner, data="breast-cancer"), "Dirichlet 0.5", "f1"),
    "wine": Task(partial(tabular.learner, data="wine"), "Dirichlet 0.5", "f1"),
    "diabetes": Task(partial(tabular.learner, data="diabetes"), "age", "r2"),
    "timeseries": Task(timeseries.learner, "machine", "r2", 400),
}


def run(name: str) -> Row | str:
    """One row; or why there is none."""
    torch.set_num_threads(1)
    begun = process_time()
    task = TASKS[name]
    rate = {} if task.central is None else {"lr": task.central}
    try:
        everything = task.make(0, 1, SEED, steps=STEPS, **rate)
    except DataError as error:
        return str(error)
    alone = _alone(task)
    swarm, worst, fewer, megabytes = _swarm(task)
    central = _central(task, everything)
    size, seconds = everything.layout.size, process_time() - begun
    found = (alone, swarm, worst, central, fewer, megabytes, seconds)
    return Row(name, task.split, task.metric, size, *found)


def _alone(task: Task) -> float:
    nodes = [task.make(index, NODES, SEED, steps=STEPS) for index in range(NODES)]
    curve = []
    for _ in range(POINTS):
        for node in nodes:
            for _ in range(task.rounds // POINTS):
                node.train()
        curve.append(sum(node.evaluate()[task.metric] for node in nodes) / NODES)
    return max(curve)


def _swarm(task: Task) -> tuple[float, float, float, float]:
    config = SimulationConfig(begin=BEGIN, swarm=SwarmConfig(links=LinkConfig(most=LINKS)))
    simulation = Simulation(SEED, LAN, config)
    for index in range(NODES):
        simulation.add(partial(task.make, index, NODES, SEED, steps=STEPS))
    while any(node.rounds < task.rounds for node in simulation.live):
        simulation.run(config.train_seconds)
    found = [node.learner.evaluate()[task.metric] for node in simulation.live]
    dense = sum(node.agent.stats.bytes_dense for node in simulation.live if node.agent)
    sent = simulation.network.sent
    return sum(found) / NODES, min(found), dense / sent, sent / NODES / 1e6


def _central(task: Task, learner: TorchLearner) -> float:
    batches = learner.batches
    assert isinstance(batches, Batches)
    batches.batch_size = max(
        batches.batch_size, min(NODES * batches.batch_size, len(batches.inputs) // SHARE)
    )
    for _ in range(task.rounds):
        learner.train()
    return learner.evaluate()[task.metric]


# output -------------------------------------------------------------------------------------------


def heading() -> None:
    """Print what the columns are."""
    print(
        f"{'':<14} {'split':<14} {'metric':<9} {'size':>7} {'alone':>7} {'swarm':>7} {'worst':>7} "
        f"{'central':>7} {'closed':>7} {'bytes':>7} {'MB/node':>8} {'CPU':>6}"
    )


def show(row: Row) -> None:
    """Print one row."""
    print(
        f"{row.name:<14} {row.split:<14} {row.metric:<9} {row.parameters:>7,} {row.alone:7.3f} "
        f"{row.swarm:7.3f} {row.worst:7.3f} {row.central:7.3f} {row.closed:7.0%} "
        f"{row.fewer:6.0f}x {row.megabytes:8.3f} {row.seconds:5.0f}s"
        + ("" if row.passes else "  MISSED"),
        flush=True,
    )


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description="what each learner gains from the swarm")
    parser.add_argument("--check", action="store_true", help="fail if a gate is missed")
    parser.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS), metavar="NAME")
    parser.add_argument("-j", type=int, default=2, metavar="N", help="processes")
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    rows = []
    heading()
    with get_context("spawn").Pool(arguments.j) as pool:
        for name, found in zip(arguments.only, pool.imap(run, arguments.only), strict=True):
            if isinstance(found, str):
                print(f"{name}: left out: {found}", file=sys.stderr)
            else:
                show(found)
                rows.append(found)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump([asdict(row) | {"closed": row.closed} for row in rows], file, indent=1)
    if arguments.check and not all(row.passes for row in rows):
        sys.exit("a gate is missed")


if __name__ == "__main__":
    main()
