"""What is written down of a run while it runs.

At each look every node that is up evaluates its model; the look becomes one row of the metrics and
one row for each node. Between looks, what happens to links and nodes is kept as events. Exchanges
are too many for that: they are counted, and how long each came after the one before on its link,
its *staleness*, is kept as a number.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isnan, nan
from typing import Any

import numpy as np

from gossip.agent import ModelAdopted
from gossip.exchange import ExchangeCompleted, ExchangeUndone
from p2p import PeerDown, PeerId, PeerUp
from sims.baselines.agent import Event
from sims.report import consensus_distance
from sims.simulation import Simulation


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One look at all honest nodes that are up."""

    time: float  # virtual seconds
    up: int
    links: int
    rounds: int  # of training, of all nodes since the beginning, as all that follow
    exchanges: int
    bytes: int
    accuracy_mean: float
    accuracy_min: float
    accuracy_low: float  # a tenth of the nodes is below
    accuracy_high: float  # a tenth is above
    accuracy_max: float
    loss_mean: float
    loss_max: float
    consensus_distance: float
    staleness: float  # median of the exchanges since the look before, seconds
    trace: str  # the hash over all that has happened


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRow:
    """One node in one look; a node that is down has no accuracy."""

    time: float
    node: int
    up: bool
    accuracy: float
    loss: float
    links: int
    rounds: int
    exchanges: int
    sent: int  # bytes
    received: int


class Recorder:
    """Looks at a simulation, and listens to it."""

    def __init__(self, simulation: Simulation) -> None:
        self.rows: list[Row] = []
        self.nodes: list[NodeRow] = []
        self.events: list[dict[str, Any]] = []
        self.graphs: list[tuple[float, list[tuple[int, int]]]] = []  # where it has changed
        self.staleness = array("d")  # of every exchange, seconds
        self._simulation = simulation
        self._index: dict[PeerId, int] = {}
        self._last: dict[tuple[int, PeerId], float] = {}  # exchange, by node and neighbour
        self._told = 0  # of the simulation's lives
        self._looked = 0  # of staleness
        simulation.listen(self._on_event)

    def look(self) -> Row:
        """Write down how everybody is doing."""
        simulation = self._simulation
        for node in simulation.nodes[len(self._index) :]:
            self._index[node.peer.id] = node.index
        self._tell_lives()
        rows = [self._node(index) for index in range(len(simulation.nodes))]
        self.nodes += rows
        graph = self._graph()
        if not self.graphs or self.graphs[-1][1] != graph:
            self.graphs.append((self._now, graph))
        self.rows.append(self._row(rows, len(graph)))
        return self.rows[-1]

    @property
    def _now(self) -> float:
        return round(self._simulation.now, 6)

    def _node(self, index: int) -> NodeRow:
        node = self._simulation.nodes[index]
        metrics, links, exchanges = {}, 0, node.exchanges
        sent, received = node.sent, node.received
        if node.agent is not None:
            metrics = node.learner.evaluate()
            links = len(node.agent.swarm.neighbours)
            exchanges += node.agent.stats.exchanges
            host = self._simulation.network.hosts[node.peer.address]
            sent, received = sent + host.sent, received + host.received
        return NodeRow(
            time=self._now,
            node=index,
            up=node.agent is not None,
            accuracy=metrics.get("accuracy", nan),
            loss=metrics.get("loss", nan),
            links=links,
            rounds=node.rounds,
            exchanges=exchanges,
            sent=sent,
            received=received,
        )

    def _row(self, rows: Sequence[NodeRow], links: int) -> Row:
        simulation = self._simulation
        honest = [node for node in simulation.live if not node.hostile]
        known = [rows[node.index] for node in honest]
        accuracies = np.array([row.accuracy for row in known if not isnan(row.accuracy)] or [nan])
        losses = np.array([row.loss for row in known if not isnan(row.loss)] or [nan])
        low, high = np.quantile(accuracies, [0.1, 0.9])
        models = [node.agent.x for node in honest if node.agent is not None]
        fresh = self.staleness[self._looked :]
        self._looked = len(self.staleness)
        return Row(
            time=self._now,
            up=sum(row.up for row in rows),
            links=links,
            rounds=sum(row.rounds for row in rows),
            exchanges=sum(row.exchanges for row in rows),
            bytes=simulation.network.sent,
            accuracy_mean=float(accuracies.mean()),
            accuracy_min=float(accuracies.min()),
            accuracy_low=float(low),
            accuracy_high=float(high),
            accuracy_max=float(accuracies.max()),
            loss_mean=float(losses.mean()),
            loss_max=float(losses.max()),
            consensus_distance=consensus_distance(models) if models else nan,
            staleness=float(np.median(fresh)) if fresh else nan,
            trace=simulation.network.trace,
        )

    def _graph(self) -> list[tuple[int, int]]:
        found = {
            (min(node.index, there), max(node.index, there))
            for node in self._simulation.live
            if node.agent is not None
            for there in (self._index[peer] for peer in node.agent.swarm.neighbours)
        }
        return sorted(found)

    # events --------------------------------------------------------------------------------------

    def _tell_lives(self) -> None:
        lives = self._simulation.lives
        for at, node, up in lives[self._told :]:
            self.events.append(
                {"time": round(at, 6), "node": node, "event": "up" if up else "down"}
            )
        self._told = len(lives)
        self.events.sort(key=lambda event: event["time"])  # stable

    def _on_event(self, node: int, event: Event, now: float) -> None:
        fact = described(node, event, now)
        if isinstance(event, ExchangeCompleted):
            before = self._last.get((node, event.peer.id))
            self._last[node, event.peer.id] = now
            if before is not None:
                self.staleness.append(now - before)
        elif fact is not None:
            self.events.append(fact)


def described(node: int, event: Event, now: float) -> dict[str, Any] | None:
    """An event as a line of events.jsonl; None for those that say little."""
    fact: dict[str, Any] = {"time": round(now, 6), "node": node}
    match event:
        case PeerUp(peer):
            return fact | {"event": "link up", "peer": peer.address.host}
        case PeerDown(peer, reason):
            return fact | {"event": "link down", "peer": peer.address.host, "reason": reason}
        case ModelAdopted(peer, samples):
            return fact | {"event": "model adopted", "peer": peer.short, "samples": samples}
        case ExchangeUndone(peer):
            return fact | {"event": "exchange undone", "peer": peer.address.host}
        case ExchangeCompleted(peer, n, sent, received):
            return fact | {
                "event": "exchange",
                "peer": peer.address.host,
                "n": n,
                "sent": sent,
                "received": received,
            }
    return None


def sessions(
    lives: Sequence[tuple[float, int, bool]], nodes: int, end: float
) -> Iterator[tuple[int, float, float]]:
    """Which node was up from when to when, of when they came and went."""
    for node in range(nodes):
        changes = [(at, up) for at, whose, up in lives if whose == node]
        changes.append((end, False))
        for (begin, up), (until, _) in pairwise(changes):
            if up:
                yield node, begin, until
