"""What happens to nodes while they learn, against a quiet run.

    python benchmarks/life.py [--seeds N] [--rounds N]

16 nodes learn `models.digits` over a random overlay, with the default exchange, in
`sims.Simulation`; the data are dealt evenly or two classes to a node. Each row is one kind of bad
luck, `all together` all of them in one run. Accuracy is the mean over the nodes at the end of the
same virtual time, and over the seeds; `worst` is the worst node of all seeds. The hour of sleep is
an hour: there, rounds take as much longer as makes it a quarter of the run.

Gates: each row within 1.5 points of the quiet run of the same seeds, all together within 3.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from random import Random
from time import perf_counter

import torch

from gossip.agent import ModelAdopted
from gossip.learner import TorchLearner
from models import digits, images
from p2p import LinkConfig, SwarmConfig
from p2p.liveness import LivenessConfig
from sims.network import Link
from sims.simulation import Simulation, SimulationConfig

WORKERS = 2
NODES = 16
LINKS = 5
BEGIN = 5.0  # virtual seconds, for links to form
GATE, GATE_TOGETHER = 1.5, 3.0  # points
RESTARTED = 5  # of 16 nodes: 30 %
DOWN = 20  # rounds
HOUR = 3600.0
ROUNDS = 120
TRAIN = 0.5  # virtual seconds a round
# A ping every 10 s, or two hours of them take longer to simulate than all that is learned.
CALM = LivenessConfig(quiet=10.0, least_timeout=1.0, interval=4.0)
SPLITS = {"2 classes": "shards", "iid": "iid"}
TASKS = {"digits": digits.learner, "images": images.learner}


@dataclass(frozen=True, slots=True)
class Luck:
    """What happens in a run; half time is the middle of it."""

    loss: float = 0.0  # of datagrams, all the time
    restarts: bool = False  # 30 % of the nodes, once each, from their checkpoints
    forget: bool = False  # and what training keeps on a node is lost with the process
    straggler: bool = False  # one node is four times slower
    late: bool = False  # the last node comes at half time
    sleeper: bool = False  # one node sleeps for an hour
    change: bool = False  # one node's data become others at half time


ROWS = {
    "quiet": Luck(),
    "20 % loss": Luck(loss=0.2),
    "30 % restarted": Luck(restarts=True),
    "  without local state": Luck(restarts=True, forget=True),
    "straggler": Luck(straggler=True),
    "late joiner": Luck(late=True),
    "an hour asleep": Luck(sleeper=True),
    "other data": Luck(change=True),
    "all together": Luck(0.2, True, False, True, True, True, True),
}


@dataclass(frozen=True, slots=True)
class Job:
    """One run."""

    task: str
    split: str
    row: str
    seed: int
    rounds: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What it came to."""

    mean: float
    worst: float
    adopted: int  # models that newcomers took over


def run(job: Job) -> Outcome:
    """One swarm for the time of so many rounds."""
    torch.set_num_threads(1)
    luck = ROWS[job.row]
    train = 2 * HOUR / job.rounds if luck.sleeper else TRAIN
    liveness = CALM if luck.sleeper else LivenessConfig()
    swarm = SwarmConfig(links=LinkConfig(most=LINKS), liveness=liveness)
    config = SimulationConfig(begin=BEGIN, train_seconds=train, swarm=swarm)
    simulation = Simulation(job.seed, Link(latency=(0.001, 0.005), loss=luck.loss), config)
    adopted: list[int] = []
    simulation.listen(
        lambda index, event, now: adopted.append(index) if isinstance(event, ModelAdopted) else None
    )
    for index in range(NODES - luck.late):
        slowdown = 4.0 if luck.straggler and index == 2 else 1.0
        simulation.add(partial(make, job, index), slowdown=slowdown)
    plan(simulation, job, luck, BEGIN, train * job.rounds)
    simulation.run(BEGIN + train * job.rounds)
    found = [node.learner.evaluate()["accuracy"] for node in simulation.nodes if node.agent]
    assert len(found) == NODES, "every node is up at the end"
    return Outcome(sum(found) / NODES, min(found), len(adopted))


def make(job: Job, index: int, other: int = 0) -> TorchLearner:
    """The learner of a node; `other` data of the same kind, if not 0."""
    made = TASKS[job.task](index, NODES, job.seed, split=SPLITS[job.split], steps=2)
    if other:
        again = TASKS[job.task](index, NODES, job.seed + other, split=SPLITS[job.split], steps=2)
        made.batches = again.batches
    return made


def plan(simulation: Simulation, job: Job, luck: Luck, begin: float, seconds: float) -> None:
    """Let it happen."""
    half = begin + seconds / 2
    rng = Random(f"life {job.seed}")
    if luck.restarts:
        for index in rng.sample(range(4, NODES - 1), RESTARTED):
            at = begin + seconds * rng.uniform(0.25, 0.6)
            simulation.call_at(at, simulation.crash, index)
            simulation.call_at(
                at + DOWN * seconds / job.rounds, restart, simulation, index, luck.forget
            )
    if luck.late:
        simulation.call_at(half, simulation.add, partial(make, job, NODES - 1))
    if luck.sleeper:
        address = simulation.nodes[3].peer.address
        simulation.call_at(begin + seconds / 4, simulation.network.freeze, address, HOUR)
    if luck.change:
        simulation.call_at(half, change, simulation, job, 1)


def restart(simulation: Simulation, index: int, forget: bool) -> None:
    """Start a node again, with what training keeps on it or without."""
    node = simulation.nodes[index]
    if forget and node.checkpoint is not None:
        node.checkpoint = replace(node.checkpoint, local={})
    simulation.restart(index)


def change(simulation: Simulation, job: Job, index: int) -> None:
    """Give a node the data that it would have in another division."""
    node = simulation.nodes[index]
    assert isinstance(node.learner, TorchLearner)
    node.learner.batches = make(job, index, other=1000).batches
    node.make = partial(make, job, index, 1000)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--task", choices=list(TASKS), default="digits")
    parser.add_argument("--rows", default="", help="only rows whose name contains this")
    parser.add_argument("--splits", default="", help="only splits whose name contains this")
    arguments = parser.parse_args()
    begun = perf_counter()
    splits = [split for split in SPLITS if arguments.splits in split]
    rows = [row for row in ROWS if arguments.rows in row or row == "quiet"]
    jobs = [
        Job(arguments.task, split, row, seed, arguments.rounds)
        for seed in range(arguments.seeds)
        for split in splits
        for row in rows
    ]
    outcomes: dict[Job, Outcome] = {}
    with get_context("spawn").Pool(WORKERS) as pool:
        for job, outcome in zip(jobs, pool.imap(run, jobs), strict=True):
            outcomes[job] = outcome
            note = f"{perf_counter() - begun:5.0f} s  {job.split}, {job.row}, seed {job.seed}"
            print(f"{note}: {outcome.mean:.2%}", file=sys.stderr, flush=True)
    for split in splits:
        print(f"\n{arguments.task}, {split}, {NODES} nodes, {arguments.rounds} rounds")
        print(f"{'':<24} {'mean':>7} {'worst':>7} {'points':>7}  gate")
        quiet = mean_of(outcomes, split, "quiet")
        for row in rows:
            show(outcomes, split, row, quiet)
    print(f"\n{perf_counter() - begun:.0f} s")


def mean_of(outcomes: dict[Job, Outcome], split: str, row: str) -> float:
    """Over the seeds."""
    found = [it.mean for job, it in outcomes.items() if (job.split, job.row) == (split, row)]
    return sum(found) / len(found)


def show(outcomes: dict[Job, Outcome], split: str, row: str, quiet: float) -> None:
    """Print one row, and whether it meets its gate."""
    worst = min(it.worst for job, it in outcomes.items() if (job.split, job.row) == (split, row))
    mean = mean_of(outcomes, split, row)
    points = 100 * (mean - quiet)
    gate = GATE_TOGETHER if row == "all together" else GATE
    met = "" if row == "quiet" else "met" if points >= -gate else "missed"
    print(f"{row:<24} {mean:7.2%} {worst:7.2%} {points:+7.2f}  {met}", flush=True)


if __name__ == "__main__":
    main()
