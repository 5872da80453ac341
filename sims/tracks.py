"""I/O: a trace of a run: what takes wall time in the simulator, and what each node does in virtual
time.

The simulator is one process of the trace: joining, then events, with training, load, encode,
decode and merge within, and the looks between. Training is there as far as events waited for it.
Each node is a process of its own, whose times are virtual:

    node   training; idle, where it waits for its turn or for others; down; merge, a moment, since
           merging takes no virtual time
    wire   the exchanges that it began, until the other half was there

What is said of the nodes is the same to the byte for the same seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gossip.agent import Agent
from gossip.exchange import ExchangeCompleted
from gossip.profile import WALL, Flights, Profile
from gossip.trace import Trace
from sims.baselines.agent import Event
from sims.simulation import Simulation

DOES = 1  # the number of a node's one track


@contextmanager
def profiled(simulation: Simulation, path: Path | None) -> Iterator[None]:
    """Write a trace of all that a simulation does meanwhile, if there is a path for it; no node may
    be there yet. Raises ConfigError if it cannot be written."""
    if path is None:
        yield
        return
    with Trace(path) as trace:
        simulation.span = Profile(trace, "simulator, wall time", "simulator").span
        tracks = Tracks(simulation, trace)
        try:
            yield
        finally:
            tracks.finish()


@dataclass(slots=True)
class _Known:
    """What is known of a node."""

    flights: Flights
    free: float  # since when nothing is said of it
    rounds: int = 0


class Tracks:
    """Watches a simulation, and writes down what its nodes do."""

    def __init__(self, simulation: Simulation, trace: Trace) -> None:
        self._simulation, self._trace = simulation, trace
        self._known: dict[int, _Known] = {}
        self._told = 0  # of the simulation's lives
        simulation.watch(self._on_step)
        simulation.listen(self._on_event)

    def finish(self) -> None:
        """The run is over: so is what is under way."""
        self._tell_lives()
        for index in self._known:
            self._tell_flights(index, self._simulation.now)

    def _on_step(self, index: int) -> None:
        self._tell_lives()
        node, known, now = self._simulation.nodes[index], self._known[index], self._simulation.now
        if node.rounds > known.rounds:
            self._span(index, "idle", known.free, node.begun)
            self._span(index, "training", node.begun, now)
            known.rounds, known.free = node.rounds, now
        self._tell_flights(index, now)

    def _on_event(self, index: int, event: Event, now: float) -> None:
        if isinstance(event, ExchangeCompleted):
            about = {"n": event.n, "sent": event.sent, "received": event.received}
            self._trace.moment(_process(index), DOES, "merge", now, **about)

    def _tell_lives(self) -> None:
        lives = self._simulation.lives
        for at, index, up in lives[self._told :]:
            if index not in self._known:
                self._meet(index, at)
            known = self._known[index]
            if up:
                self._span(index, "down", known.free, at)
            else:
                known.flights.look({}, at)
            known.free = at
        self._told = len(lives)

    def _meet(self, index: int, at: float) -> None:
        process = _process(index)
        self._trace.process(process, f"node {index}, virtual time")
        self._trace.thread(process, DOES, "node")
        self._known[index] = _Known(Flights(self._trace, process), at)

    def _tell_flights(self, index: int, now: float) -> None:
        agent = self._simulation.nodes[index].agent
        if isinstance(agent, Agent):
            self._known[index].flights.look(agent.links, now)

    def _span(self, index: int, name: str, begin: float, end: float) -> None:
        if end > begin:
            self._trace.span(_process(index), DOES, name, begin, end - begin)


def _process(index: int) -> int:
    return WALL + 1 + index
