"""How fast the simulator is and what it holds: python benchmarks/simulator.py [--check] [--nodes N]

    python benchmarks/simulator.py                     all of it, some minutes
    python benchmarks/simulator.py --only learning --nodes 200 --profile

learning   N nodes, the 64-64-10 MLP, 300 samples each, batch 32, a local epoch for each sync, one
           exchange for each sync, the random overlay, every byte encoded and decoded. The nodes
           find each other first; what that takes is printed apart. Beside it, in the same run, a
           plain Python loop over the same learners, which does nothing but train. Then the memory:
           what the process grew by, in multiples of what agents must hold: models, references,
           momentum, correction, samples, the records of the roster.
overlay    swarms without learners; an event is a packet that arrives or a wake-up.

Figures are of wall time, with training in `--workers` threads beside; CPU time stands beside them,
since a machine that does other things as well makes the former worse. Gates: 0.7 ms a node-round,
three times the state, 150,000 events a second.
"""

from __future__ import annotations

import argparse
import gc
import sys
from contextlib import contextmanager
from cProfile import Profile
from functools import partial
from pathlib import Path
from pstats import Stats
from time import perf_counter, process_time

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import nn

from gossip.agent import Agent
from gossip.learner import Batches, TorchLearner
from sims.crowd import Crowd
from sims.engines import local
from sims.network import Link
from sims.simulation import Simulation, SimulationConfig

SAMPLES, BATCH, CLASSES = 300, 32, 10
MEETING = 20.0  # virtual seconds in which nodes find each other
GATE_MS, GATE_STATE, GATE_EVENTS = 0.7, 3.0, 150_000

failures: list[str] = []


def row(what: str, value: str, gate: str = "", kept: bool = True) -> None:
    """Print a figure and its gate."""
    print(f"  {what:52}{value:>22}   {gate:16}{'' if kept else 'MISSED'}", flush=True)
    if not kept:
        failures.append(what)


class Watch:
    """Wall and CPU seconds of a `with` block."""

    def __enter__(self) -> Watch:
        self._wall, self._cpu = perf_counter(), process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = perf_counter() - self._wall, process_time() - self._cpu


def resident() -> int:
    """Bytes of this process."""
    gc.collect()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not tell VmRSS")


POOL = torch.rand(20_000, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = POOL.flatten(1) @ torch.randn(64, CLASSES, generator=torch.Generator().manual_seed(1))
LABELS = (LABELS - LABELS.mean(dim=0)).argmax(dim=1)
TEST = POOL[:500], LABELS[:500]


def learner(index: int) -> TorchLearner:
    """One node's: some samples of a made-up task."""
    generator = torch.Generator().manual_seed(index)
    mine = torch.randint(500, len(POOL), (SAMPLES,), generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, CLASSES))
    batches = Batches(POOL[mine], LABELS[mine], BATCH, generator)
    sgd = partial(torch.optim.SGD, lr=0.03, momentum=0.9)
    return TorchLearner(
        model, batches, nn.functional.cross_entropy, sgd, steps=len(batches), test=TEST
    )


def plain_loop(count: int = 100) -> None:
    """What training alone takes, learner by learner."""
    learners = [learner(index) for index in range(count)]
    learners[0].train()
    with Watch() as watch:
        for one in learners:
            one.train()
    row("plain loop, training alone: ms a node-round", _ms(watch, count))


def _ms(watch: Watch, count: int) -> str:
    return f"{1e3 * watch.wall / count:.3f} (CPU {1e3 * watch.cpu / count:.3f})"


def held(simulation: Simulation) -> int:
    """Bytes of what agents and learners must hold."""
    numbers = records = 0
    for node in simulation.live:
        assert isinstance(node.agent, Agent)
        links = len(node.agent.links)
        numbers += (2 + links + 2) * node.learner.layout.size  # x, handed out, r; momentum, h
        records += sum(len(entry.data) for entry in node.agent.swarm.roster.entries.values())
    samples = POOL[0].nbytes + LABELS[0].nbytes
    return 4 * numbers + records + len(simulation.nodes) * SAMPLES * samples


def learning(nodes: int, rounds: int, workers: int, profile: Profile | None) -> None:
    """The whole node-round."""
    plain_loop()
    learner(0)
    before = resident()
    config = SimulationConfig(begin=MEETING, engine=local(workers))
    simulation = Simulation(0, Link(latency=(0.005, 0.02)), config)
    with Watch() as watch:
        for index in range(nodes):
            simulation.add(partial(learner, index))
            simulation.run(MEETING / 2 / nodes)
        simulation.run(MEETING - simulation.now)
    row("to make the nodes and let them meet: s", f"{watch.wall:.1f} (CPU {watch.cpu:.1f})")
    exchanges = simulation.report().exchanges
    with profiled(profile), Watch() as watch:
        simulation.run(rounds * config.train_seconds)
    done = sum(node.rounds for node in simulation.nodes)
    each = 1e3 * watch.wall / done
    row("ms a node-round", _ms(watch, done), f"<= {GATE_MS}", each <= GATE_MS)
    report = simulation.report()
    row("exchanges a node-round", f"{(report.exchanges - exchanges) / 2 / done:.2f}")
    training = simulation.training
    row(
        "rounds in stacks, of all", f"{training.stacked / (training.stacked + training.single):.3f}"
    )
    row("mean accuracy", f"{report.accuracy_mean:.3f}")
    grown, state = resident() - before, held(simulation)
    row("state of a node: kB", f"{state / nodes / 1e3:.0f}")
    times = grown / state
    row("memory, in states", f"{times:.2f}", f"<= {GATE_STATE}", times <= GATE_STATE)
    print(f"  trace {report.trace}")


def overlay(nodes: int, seconds: float, profile: Profile | None) -> None:
    """Events a second of swarms alone."""
    crowd = Crowd(0)
    with Watch() as watch:
        crowd.grow(nodes, rate=nodes / 10, settle=4)
    before = crowd.network.events
    row("to grow: events a second", f"{before / watch.wall:,.0f} (CPU {before / watch.cpu:,.0f})")
    with profiled(profile), Watch() as watch:
        crowd.network.run(seconds)
    events = crowd.network.events - before
    pace = events / watch.wall
    text = f"{pace:,.0f} (CPU {events / watch.cpu:,.0f})"
    row(f"{nodes:,} nodes: events a second", text, f">= {GATE_EVENTS:,}", pace >= GATE_EVENTS)


@contextmanager
def profiled(profile: Profile | None):
    """Have a block profiled."""
    if profile is not None:
        profile.enable()
    yield
    if profile is not None:
        profile.disable()


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true", help="exit 1 if a gate is missed")
    parser.add_argument("--only", choices=("learning", "overlay"))
    parser.add_argument("--nodes", type=int, help="1,000, of the overlay 10,000")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=3.0, help="of the overlay")
    parser.add_argument("--workers", type=int, default=1, help="threads beside, for training")
    parser.add_argument("--profile", action="store_true", help="and print where the time goes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    profile = Profile() if arguments.profile else None
    if arguments.only != "overlay":
        print("learning")
        learning(arguments.nodes or 1000, arguments.rounds, arguments.workers, profile)
    if arguments.only != "learning":
        print("overlay")
        overlay(arguments.nodes or 10_000, arguments.seconds, profile)
    if profile is not None:
        Stats(profile).sort_stats("tottime").print_stats(60)
    if failures and arguments.check:
        sys.exit(f"{len(failures)} gates were missed: {'; '.join(failures)}")


if __name__ == "__main__":
    main()
