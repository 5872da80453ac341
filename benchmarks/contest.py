"""What `learning.py` compares: tasks, contenders, and one run of one on the other.

Sixteen nodes on a random 5-regular graph, or nine on a ring, the same for all contenders on one
seed; a network with the latency of a LAN, so that algorithms differ and not the times that their
messages take. Nobody trains before the links are there; after that a node takes two optimizer
steps, syncs, and so on for as many rounds as the task says. Bytes are all that the network was
given by then, pings included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch

from gossip.learner import Learner
from models import characters, digits, images, logistic
from sims.algorithms import OURS, with_algorithm
from sims.network import Link
from sims.simulation import Simulation, SimulationConfig
from sims.topology import TopologyConfig, edges, neighbours

NODES, STEPS = 16, 2
LAN = Link(latency=(0.001, 0.005))
BEGIN = 8.0  # virtual seconds; links form in about five
POINTS = 10  # of a curve
PATIENCE = 20.0  # times as long as rounds take by themselves; then an algorithm is stuck
MAIN = OURS
REGULAR = TopologyConfig(kind="regular", degree=5)

Settings = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Task:
    """What is learned, by whom, and for how long."""

    name: str
    make: Callable[..., Learner]  # (shard, shards, seed, drift_correction=...)
    skewed: bool
    rounds: int = 200
    nodes: int = NODES
    topology: TopologyConfig = REGULAR
    metric: str = "accuracy"
    ratio: float = 70.0  # the gate: times fewer bytes than AD-PSGD


@dataclass(frozen=True, slots=True)
class Contender:
    """An algorithm with its settings, and the strength of the drift correction beside it."""

    label: str
    algorithm: str
    settings: tuple[tuple[str, float], ...] = ()
    drift: float = 0.0
    family: str = ""  # of settings among which the best is searched on the first seed
    repeated: bool = False  # on all seeds; what is only there for orientation runs on the first


@dataclass(frozen=True, slots=True)
class Job:
    """One run."""

    task: str
    contender: Contender
    seed: int
    rounds: int


@dataclass(frozen=True, slots=True)
class Point:
    """Where a run stood after some rounds."""

    rounds: int
    megabytes: float  # sent per node
    mean: float
    worst: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to."""

    curve: tuple[Point, ...]
    seconds: float  # virtual, of training
    lost: int  # nodes whose training ended in NaN

    @property
    def last(self) -> Point:
        """The end."""
        return self.curve[-1]


def _characters(shard: int, shards: int, seed: int, drift_correction: float) -> Learner:
    return characters.learner(shard, shards, seed, steps=STEPS)  # Adam has no drift correction


def _logistic(shard: int, shards: int, seed: int, drift_correction: float) -> Learner:
    return logistic.learner(shard, shards, seed)


TASKS = {
    task.name: task
    for task in (
        Task(
            "images, 2 classes",
            partial(images.learner, split="shards", steps=STEPS),
            skewed=True,
            rounds=300,
            ratio=40.0,
        ),
        Task(
            "digits, 2 classes",
            partial(digits.learner, split="shards", steps=STEPS),
            skewed=True,
            ratio=40.0,
        ),
        Task(
            "images, iid",
            partial(images.learner, split="iid", steps=STEPS),
            skewed=False,
            rounds=400,
        ),
        Task("characters", _characters, skewed=False, rounds=400),
        Task(
            "logistic",
            _logistic,
            skewed=True,
            rounds=1500,
            nodes=9,
            topology=TopologyConfig(kind="ring"),
            metric="suboptimality",
        ),
    )
}


def ours(percent: float, bits: int, drift: float) -> Contender:
    """The shared reference at a fixed setting."""
    settings = (("density", percent / 100), ("bits", bits))
    label = f"{OURS} {percent:g}% {bits}-bit"
    return Contender(label, OURS, settings, drift)


def adaptive(drift: float, **settings: float) -> Contender:
    """The shared reference whose control law chooses; without settings the default."""
    label = " ".join([OURS, *(f"{name} {value:g}" for name, value in settings.items())])
    return Contender(label, OURS, tuple(settings.items()), drift, repeated=label == MAIN)


def contenders(task: Task) -> list[Contender]:
    """Who takes part."""
    if task.metric != "accuracy":
        return convex()
    on = 0.1 if task.skewed else 0.0
    plain = ["isolated", "d-psgd", "el-local", "el-oracle", "push-sum", "noloco"]
    found = [Contender("all-reduce", "all-reduce")]
    found += [Contender(name, name) for name in plain]
    found.append(Contender("ad-psgd", "ad-psgd", repeated=not task.skewed))
    if task.skewed:
        found.append(Contender("ad-psgd + correction", "ad-psgd", (), on, repeated=True))
    found.append(adaptive(on))
    found += [ours(percent, bits, on) for percent, bits in ((10, 3), (2.5, 3))]
    for name, gamma in (("choco", 0.25), ("choco", 0.4), ("choco", 0.6), ("edge-choco", 0.4)):
        label = f"{name} 10% 3-bit, gamma {gamma}" + (f" + correction {on}" if on else "")
        settings = (("gamma", gamma), ("density", 0.1), ("bits", 3))
        family = name if name == "choco" else ""
        found.append(Contender(label, name, settings, on, family))
    return found


def convex() -> list[Contender]:
    """Who takes part in the logistic regression."""
    found = [Contender("d-psgd", "d-psgd"), Contender("ad-psgd", "ad-psgd")]
    found += [adaptive(0.0), *(ours(percent, 3, 0.0) for percent in (10, 2))]
    for gamma in (0.01, 0.02, 0.04):
        settings = (("gamma", gamma), ("density", 0.01), ("bits", 8))
        found.append(Contender(f"choco 1% 8-bit, gamma {gamma}", "choco", settings, family="choco"))
    return found


def run(job: Job) -> Outcome:
    """One contender on one task."""
    torch.set_num_threads(1)
    task, contender = TASKS[job.task], job.contender
    settings = {key: str(value) for key, value in contender.settings}
    links = edges(task.topology, task.nodes, job.seed)
    graph = None if links is None else neighbours(links, task.nodes)
    config = with_algorithm(
        SimulationConfig(begin=BEGIN, graph=graph), contender.algorithm, settings
    )
    simulation = Simulation(job.seed, LAN, config)
    for index in range(task.nodes):
        make = partial(task.make, index, task.nodes, job.seed, drift_correction=contender.drift)
        simulation.add(make)
    curve = []
    limit = BEGIN + PATIENCE * job.rounds * config.train_seconds
    for part in range(1, POINTS + 1):
        rounds = round(job.rounds * part / POINTS)
        while _behind(simulation, rounds) and simulation.now < limit:
            simulation.run(config.train_seconds)
        curve.append(_measure(simulation, task, rounds))
    lost = task.nodes - len(simulation.live)
    return Outcome(tuple(curve), simulation.now - BEGIN, lost)


def _behind(simulation: Simulation, rounds: int) -> bool:
    return any(node.rounds < rounds for node in simulation.live)


def _measure(simulation: Simulation, task: Task, rounds: int) -> Point:
    found = [node.learner.evaluate()[task.metric] for node in simulation.live]
    if task.metric == "accuracy":
        found += [0.0] * (task.nodes - len(found))  # a model that ended in NaN knows nothing
        worst = min(found)
    else:
        found += [float("inf")] * (task.nodes - len(found))
        worst = max(found)
    megabytes = simulation.network.sent / task.nodes / 1e6
    return Point(rounds, megabytes, sum(found) / len(found), worst)
