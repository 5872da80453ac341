"""A swarm under random harm, which must break no law and recover once the harm is over.

    python -m sims.faults --seed 1234            one plan, printed, and where it broke
    python -m sims.faults --seeds 0:10000 -j 2   many; each that breaks prints itself

Everything is drawn from the seed, in the manner of TigerBeetle's VOPR: what the network is like,
and faults for 60 virtual seconds. A `Plan` is data; `strike` carries it out, and `sims.checker`
says what must hold at every step. Then everything heals, and within 30 s the swarm must be one
again: connected, every link at both of its ends, and every link exchanging.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from multiprocessing import get_context
from random import Random
from traceback import format_exception

import click
import torch
from torch import Tensor

from gossip.agent import AgentConfig
from gossip.codec import CodecConfig
from gossip.exchange import ExchangeConfig
from gossip.vector import Layout
from p2p import LinkConfig, SwarmConfig
from sims.checker import Broken, Checker
from sims.network import Link
from sims.simulation import Simulation, SimulationConfig

HARM = 60.0  # virtual seconds
RECOVERY = 30.0  # virtual seconds after which the swarm must be whole
LOOK_EVERY = 1.0  # virtual seconds between two looks at whether it is
SIZE = 64  # coordinates; room for a few receipts, which are held to the size of the model
LAYOUT = Layout(("w",), ((SIZE,),), ("float64",))
GRID = 2.0**-10  # of training steps
TRAIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Clog:
    """What one node sends another arrives late."""

    at: float
    source: int
    target: int
    seconds: float

    def strike(self, simulation: Simulation) -> None:
        source, target = (simulation.nodes[i].peer.address for i in (self.source, self.target))
        simulation.network.clog(source, target, self.seconds)


@dataclass(frozen=True, slots=True)
class Partition:
    """Nothing passes between the side and the others, or only to it."""

    at: float
    side: tuple[int, ...]
    one_way: bool
    seconds: float

    def strike(self, simulation: Simulation) -> None:
        others = [i for i in range(len(simulation.nodes)) if i not in self.side]
        if self.one_way:
            simulation.cut(self.side, others)
        else:
            simulation.partition(self.side, others)
        simulation.call_at(simulation.now + self.seconds, simulation.heal)


@dataclass(frozen=True, slots=True)
class Crash:
    """A node stops without a word, and starts again from its checkpoint or with nothing."""

    at: float
    node: int
    seconds: float
    forget: bool

    def strike(self, simulation: Simulation) -> None:
        if simulation.nodes[self.node].agent is not None:
            simulation.crash(self.node)
            restart = partial(simulation.restart, self.node, forget=self.forget)
            simulation.call_at(simulation.now + self.seconds, restart)


@dataclass(frozen=True, slots=True)
class Freeze:
    """A process stands still."""

    at: float
    node: int
    seconds: float

    def strike(self, simulation: Simulation) -> None:
        if simulation.nodes[self.node].agent is not None:
            simulation.network.freeze(simulation.nodes[self.node].peer.address, self.seconds)


@dataclass(frozen=True, slots=True)
class Blocked:
    """No stream reaches a node."""

    at: float
    node: int
    seconds: float

    def strike(self, simulation: Simulation) -> None:
        simulation.network.block_streams(simulation.nodes[self.node].peer.address, self.seconds)


@dataclass(frozen=True, slots=True)
class Clocks:
    """A clock leaps, and runs faster or slower from then on."""

    at: float
    node: int
    jump: float
    rate: float

    def strike(self, simulation: Simulation) -> None:
        address = simulation.nodes[self.node].peer.address
        simulation.network.change_clock(address, jump=self.jump, rate=self.rate)


Fault = Clog | Partition | Crash | Freeze | Blocked | Clocks


@dataclass(frozen=True, slots=True)
class Plan:
    """What a swarm goes through."""

    seed: int
    nodes: int
    most_links: int  # of one node
    link: Link  # while there is harm; afterwards a good one
    faults: tuple[Fault, ...]  # in the order of time

    def __str__(self) -> str:
        head = f"seed {self.seed}: {self.nodes} nodes of {self.most_links} links, {self.link}"
        return "\n".join((head, *(f"  {fault}" for fault in self.faults)))


@dataclass(frozen=True, slots=True)
class Outcome:
    """A plan that broke nothing."""

    steps: int
    exchanges: int  # completed, counted at each end
    undone: int  # of these, taken back when a link was settled
    forgotten: int  # lost in a crash with what came after the checkpoint
    unsettled: int  # that only one end remembers in the end
    recovered: float  # seconds after the end of the harm
    trace: str


# drawing ------------------------------------------------------------------------------------------


def draw(seed: int) -> Plan:
    """The plan of a seed. Ranges after VOPR where it has them; the rest are guesses."""
    rng = Random(f"plan {seed}")
    nodes = rng.choice((3, 4, 4, 5, 5, 6, 8, 12))
    least = round(rng.uniform(0, 0.03), 3)
    link = Link(
        latency=(least, least + rng.choice((0.01, 0.1, 0.1, 0.5, 1.5))),
        loss=round(rng.uniform(0, 0.3), 2),
        duplicate=rng.choice((0.0, round(rng.uniform(0, 0.5), 2))),
    )
    kinds = [_clogs, _partitions, _crashes, _freezes, _blocks, _clocks]
    chosen = rng.sample(kinds, rng.randint(1, len(kinds)))
    faults = chain.from_iterable(kind(rng, nodes) for kind in chosen)
    return Plan(seed, nodes, rng.choice((3, 5)), link, tuple(sorted(faults, key=lambda f: f.at)))


def _times(rng: Random, every: float, seconds: float) -> Iterable[tuple[float, float]]:
    """When something of a kind happens, and for how long; one after the other, all within HARM."""
    at = rng.expovariate(1 / every)
    while True:
        lasts = min(rng.expovariate(1 / seconds), 4 * seconds)
        if at + lasts >= HARM:
            return
        yield round(at, 3), round(lasts, 3)
        at += lasts + rng.expovariate(1 / every)


def _clogs(rng: Random, nodes: int) -> Iterable[Fault]:
    for _ in range(rng.randint(1, 4)):
        for at, seconds in _times(rng, 10, rng.uniform(0.1, 5)):
            source, target = rng.sample(range(nodes), 2)
            yield Clog(at, source, target, seconds)


def _partitions(rng: Random, nodes: int) -> Iterable[Fault]:
    for at, seconds in _times(rng, rng.uniform(5, 20), rng.uniform(1, 15)):
        size = rng.choice((1, nodes // 2, rng.randint(1, nodes - 1)))
        side = tuple(sorted(rng.sample(range(nodes), size)))
        yield Partition(at, side, rng.random() < 0.5, seconds)


def _crashes(rng: Random, nodes: int) -> Iterable[Fault]:
    seconds = rng.choice((0.2, 2.0, 10.0))
    for node in rng.sample(range(nodes), rng.randint(1, nodes)):
        for at, down in _times(rng, 30, seconds):
            yield Crash(at, node, down, rng.random() < 0.3)


def _freezes(rng: Random, nodes: int) -> Iterable[Fault]:
    for node in rng.sample(range(nodes), rng.randint(1, nodes)):
        for at, seconds in _times(rng, 15, rng.uniform(0.2, 8)):
            yield Freeze(at, node, seconds)


def _blocks(rng: Random, nodes: int) -> Iterable[Fault]:
    for node in rng.sample(range(nodes), rng.randint(1, nodes)):
        for at, seconds in _times(rng, 10, 20):
            yield Blocked(at, node, seconds)


def _clocks(rng: Random, nodes: int) -> Iterable[Fault]:
    for node in rng.sample(range(nodes), rng.randint(1, nodes)):
        for at, _ in _times(rng, 20, 1):
            yield Clocks(
                at, node, rng.choice((0.0, 1.0, 30.0, 3600.0)), round(rng.uniform(0.95, 1.05), 3)
            )


# running ------------------------------------------------------------------------------------------


class Wanderer:
    """A learner that takes small random steps, on a grid so that their sums are exact."""

    layout = LAYOUT

    def __init__(self, seed: int) -> None:
        self._rng = torch.Generator().manual_seed(seed)
        self._x = self._draw(2048)
        self.travelled = torch.zeros(SIZE, dtype=torch.float64)

    def _draw(self, most: int) -> Tensor:
        return GRID * torch.randint(-most, most + 1, (SIZE,), generator=self._rng).double()

    def parameters(self) -> Tensor:
        return self._x.clone()

    def load(self, parameters: Tensor) -> None:
        self._x = parameters.clone()

    def train(self) -> int:
        step = self._draw(16)
        self._x, self.travelled = self._x + step, self.travelled + step
        return 1

    def evaluate(self) -> dict[str, float]:
        return {}


EXCHANGE = ExchangeConfig(codec=CodecConfig(density=0.1), digest_every=4)


class Failed(Exception):
    """A plan after which a law did not hold; says which, when, and how to see it again."""


def run(plan: Plan) -> Outcome:
    """Carry out a plan. Raises Failed; whatever a machine raises is a failure too."""
    config = SimulationConfig(
        train_seconds=TRAIN_SECONDS,
        swarm=SwarmConfig(links=LinkConfig(most=plan.most_links)),
        agent=AgentConfig(exchange=EXCHANGE, merge="mean"),
    )
    simulation = Simulation(plan.seed, plan.link, config)
    checker = Checker(simulation)
    try:
        return _run(plan, simulation, checker)
    except Exception as error:
        events = "\n".join(f"  {at:9.4f} node {node}: {event}" for at, node, event in checker.last)
        raise Failed(
            f"{plan}\nthe last events:\n{events}\n"
            f"broke at {simulation.now:.4f} s, step {checker.steps}: "
            f"{type(error).__name__}: {error}\n"
            f"again: python -m sims.faults --seed {plan.seed}"
        ) from error


def _run(plan: Plan, simulation: Simulation, checker: Checker) -> Outcome:
    for index in range(plan.nodes):
        simulation.add(partial(Wanderer, index))
    for fault in plan.faults:
        simulation.call_at(fault.at, fault.strike, simulation)
    simulation.run(HARM)
    simulation.network.link = Link()
    checker.fresh.clear()
    while (trouble := checker.trouble()) and simulation.now < HARM + RECOVERY:
        simulation.run(LOOK_EVERY)
    if trouble:
        raise Broken(f"{RECOVERY:.0f} s after all has healed, {trouble}")
    return Outcome(
        checker.steps,
        checker.completed,
        checker.undone,
        checker.forgotten,
        checker.unsettled(),
        simulation.now - HARM,
        simulation.network.trace,
    )


# the command --------------------------------------------------------------------------------------


def _attempt(seed: int) -> Outcome | str:
    torch.set_num_threads(1)  # vectors this small lose by more
    try:
        return run(draw(seed))
    except Failed as failure:
        cause = failure.__cause__
        where = "" if isinstance(cause, Broken) else "".join(format_exception(cause))
        return f"{where}{failure}"


def _outcomes(seeds: range, processes: int) -> Iterable[Outcome | str]:
    if processes == 1:
        yield from map(_attempt, seeds)
        return
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        yield from pool.map(_attempt, seeds)


def _range(context: click.Context, option: click.Parameter, text: str | None) -> range | None:
    if text is None:
        return None
    first, colon, end = text.partition(":")
    if not (colon and first.isdigit() and end.isdigit()):
        raise click.BadParameter(f"{text!r} is not FIRST:END, as in 0:10000")
    return range(int(first), int(end))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seed", type=click.IntRange(min=0), help="One, with its plan.")
@click.option("--seeds", callback=_range, metavar="FIRST:END", help="Many, END not included.")
@click.option("-j", "processes", type=click.IntRange(min=1), default=1, show_default=True)
def main(seed: int | None, seeds: range | None, processes: int) -> None:
    """Put simulated swarms through random faults; exit with 1 if one breaks a law."""
    if (seed is None) == (seeds is None):
        raise click.UsageError("give either --seed or --seeds")
    if seed is not None:
        seeds = range(seed, seed + 1)
        click.echo(draw(seed))
    assert seeds is not None
    broken = 0
    for count, outcome in enumerate(_outcomes(seeds, processes), 1):
        broken += isinstance(outcome, str)
        if isinstance(outcome, str) or seed is not None:
            click.echo(outcome)
        if count % 100 == 0 or count == len(seeds):
            click.echo(f"{broken} of {count} seeds broke a law", err=True)
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main(prog_name="python -m sims.faults")
