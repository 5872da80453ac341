"""What must hold in a swarm at every step, whatever happens to it.

Watches a `Simulation` of models in float64, where a sum shows half an exchange that went missing,
and raises `Broken` at the step after which a law does not hold:

* events   of a peer come between its `PeerUp` and its `PeerDown`, and those alternate; honest
           peers never say what another one rejects.
* bounds   every queue and table has one, and nothing is left in the outbox of an exchange.
* vectors  `x` moves by training, by adoption, and by exchanges, and by nothing else.
* links    ends that have completed the same exchanges hold one reference, to the bit, and each
           other's halves; their moves cancel; and no end is ahead by more than one exchange.
* settling once both ends are in a later epoch, both have completed the same exchanges of all
           earlier ones. Only an end that lost its memory is excused: restarted from a checkpoint
           that is older than that, or without the receipt. Then the mean moves by what it forgot
           and one exchange more, at most.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from gossip.agent import KEPT_RECEIPTS, Agent, ModelAdopted
from gossip.exchange import (
    Exchange,
    ExchangeCompleted,
    ExchangeUndone,
    LinkOpened,
    LinkReset,
    ModelMismatched,
    PayloadRejected,
)
from p2p import PacketRejected, PeerDown, PeerId, PeerUp
from p2p.liveness import MOST_CHECKS
from sims.baselines.agent import Event
from sims.simulation import Checkpoint, SimulatedNode, Simulation

EXACT = 1e-9  # of vectors around 1 in float64, over thousands of additions
MOST_PACKETS = 128  # that one step may send: answers, and a probe or a walk for every link
MOST_TIMERS = 4096  # entries of a heap with lazy deletion

SHOWN = 8  # events before a failure

Epoch = tuple[int, int]


class Broken(Exception):
    """An invariant does not hold."""


class Traveller(Protocol):
    """A learner that says where it went by itself."""

    travelled: Tensor  # (n,) float64, the sum of all that `train` added


@dataclass(slots=True)
class _Book:
    """What one node has done, as far as it remembers; a checkpoint keeps a copy."""

    own: Tensor  # x less all that exchanges moved
    done: dict[int, dict[Epoch, int]] = field(default_factory=dict)  # by peer: the last exchange

    def copy(self) -> _Book:
        done = {peer: dict(epochs) for peer, epochs in self.done.items()}
        return _Book(self.own.clone(), done)


@dataclass(slots=True)
class _Watched:
    """One node, as it was after its last step."""

    book: _Book
    x: Tensor
    agent: Agent | None = None
    travelled: Tensor = field(default_factory=lambda: torch.zeros(0))
    up: dict[PeerId, None] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    checkpoint: Checkpoint | None = None
    saved: _Book | None = None  # the book as of that checkpoint


class Checker:
    """Checks every step of every node of `simulation`, from now on. Nodes may be added later."""

    def __init__(self, simulation: Simulation) -> None:
        self.steps = 0
        self.completed = 0  # exchanges, counted at each end
        self.undone = 0
        self.forgotten = 0  # exchanges that a node lost in a crash
        self.fresh: dict[tuple[int, int], Epoch] = {}  # ends that exchanged since it was cleared
        self.last: deque[tuple[float, int, Event]] = deque(maxlen=SHOWN)
        self._simulation = simulation
        self._index: dict[PeerId, int] = {}
        self._nodes: dict[int, _Watched] = {}
        self._moves: dict[tuple[int, Epoch, int], Tensor] = {}  # of x, by node and exchange
        self._lost: dict[tuple[int, int, Epoch], int] = {}  # exchanges that a node forgot
        self._excused: dict[tuple[int, int, Epoch], None] = {}
        simulation.listen(self._on_event)
        simulation.watch(self._on_step)

    # what happens --------------------------------------------------------------------------------

    def _on_event(self, index: int, event: Event, now: float) -> None:
        self.last.append((now, index, event))
        self._nodes[index].events.append(event)

    def _on_step(self, index: int) -> None:
        self.steps += 1
        node = self._simulation.nodes[index]
        agent = _agent(node)
        if agent is None:
            return
        watched = self._nodes.get(index)
        if watched is None:
            self._index[node.peer.id] = index
            watched = self._nodes[index] = _Watched(_Book(agent.x.clone()), agent.x.clone())
        if watched.agent is not agent:
            self._started(node, watched, agent)
        elif node.checkpoint is not watched.checkpoint:
            watched.checkpoint, watched.saved = node.checkpoint, watched.book.copy()
        events, watched.events = watched.events, []
        for event in events:
            self._follow(index, watched, event)
        self._check_vector(node, watched, agent, events)
        for event in events:
            match event:
                case ExchangeCompleted(peer) | ExchangeUndone(peer) | LinkOpened(peer):
                    self._check_link(index, self._index[peer.id])
                case PeerUp(peer):
                    self._check_receipt(index, self._index[peer.id], agent.links[peer.id])
        if not (agent.links.keys() == agent.swarm.neighbours.keys() == watched.up.keys()):
            raise Broken(f"node {index}: its neighbours are not those that it said are up")
        check_bounds(agent)

    def _started(self, node: SimulatedNode, watched: _Watched, agent: Agent) -> None:
        """A node goes on from its checkpoint: it has forgotten what came after that."""
        if node.checkpoint is not watched.checkpoint:  # saved after the last step before the crash
            watched.checkpoint, watched.saved = node.checkpoint, watched.book.copy()
        if watched.agent is not None:
            saved = watched.saved if node.checkpoint else None
            before, watched.book = watched.book, saved.copy() if saved else _Book(agent.x.clone())
            self._forget(node.index, before.done, watched.book.done)
        watched.agent, watched.x, watched.up = agent, agent.x.clone(), {}
        watched.travelled = _travelled(node)

    def _forget(
        self, node: int, had: dict[int, dict[Epoch, int]], has: dict[int, dict[Epoch, int]]
    ) -> None:
        for peer, epochs in had.items():
            for epoch, n in epochs.items():
                rest = has.get(peer, {}).get(epoch, -1)
                if rest != n:
                    lost = max(n - rest, 0)
                    self._lost[node, peer, epoch] = self._lost.get((node, peer, epoch), 0) + lost
                    self._excuse(node, peer, epoch)
                    self.forgotten += lost

    def _excuse(self, node: int, peer: int, epoch: Epoch) -> None:
        self._excused[min(node, peer), max(node, peer), epoch] = None

    # events --------------------------------------------------------------------------------------

    def _follow(self, index: int, watched: _Watched, event: Event) -> None:
        match event:
            case PeerUp(peer):
                _demand(peer.id not in watched.up, f"node {index}: {event} twice")
                watched.up[peer.id] = None
            case PeerDown(peer):
                _demand(peer.id in watched.up, f"node {index}: {event} of a peer that is not up")
                del watched.up[peer.id]
            case PacketRejected() | PayloadRejected() | ModelMismatched():
                raise Broken(f"node {index}: an honest peer was rejected: {event}")
            case ExchangeCompleted(peer) | ExchangeUndone(peer) | LinkOpened(peer):
                _demand(peer.id in watched.up, f"node {index}: {event} on a dead link")
            case ModelAdopted(peer):
                _demand(peer in watched.up, f"node {index}: {event} on a dead link")
            case LinkReset(peer, reason):
                _demand(peer.id in watched.up, f"node {index}: {event} on a dead link")
                _demand("differ" not in reason, f"node {index}: {event}")

    # vectors -------------------------------------------------------------------------------------

    def _check_vector(
        self, node: SimulatedNode, watched: _Watched, agent: Agent, events: list[Event]
    ) -> None:
        x, book = watched.x, watched.book
        travelled = _travelled(node)
        if travelled is watched.travelled and not events and torch.equal(agent.x, x):
            return
        if travelled is not watched.travelled:
            step = travelled - watched.travelled
            x, watched.travelled = x + step, travelled
            book.own += step
        for event in events:
            match event:
                case ExchangeUndone(peer, n):
                    self.undone += 1
                    done = book.done[self._index[peer.id]]
                    epoch = next(epoch for epoch in reversed(done) if done[epoch] == n)
                    done[epoch] = n - 1
                    x = x - self._moves[node.index, epoch, n]
                case LinkOpened(peer):
                    done = book.done.setdefault(self._index[peer.id], {})
                    done[_epoch(agent.links[peer.id])] = 0
                case ExchangeCompleted(peer, n):
                    self.completed += 1
                    epoch = _epoch(agent.links[peer.id])
                    other = self._index[peer.id]
                    done = book.done[other]
                    before = done.get(epoch, -1)
                    _demand(before == n - 1, f"node {node.index}: {event} after {before}")
                    done[epoch] = n
                    self._moves[node.index, epoch, n] = agent.x - x
                    self.fresh[node.index, other] = epoch
                    x = agent.x
                case ModelAdopted(peer):
                    reference = agent.links[peer].reference
                    assert reference is not None
                    book.own += reference - x
                    x = reference
        error = float((agent.x - x).abs().max())
        _demand(error <= EXACT, f"node {node.index}: x has moved by {error} for no reason")
        watched.x = agent.x.clone()

    # links ---------------------------------------------------------------------------------------

    def _check_link(self, a: int, b: int) -> None:
        """One end has just completed something."""
        mine, theirs = self._link(a, b), self._link(b, a)
        if mine is None or mine.completed < 0:
            return
        epoch, n = _epoch(mine), mine.completed
        for earlier in self._nodes[a].book.done[b] | self._nodes[b].book.done.get(a, {}):
            self._check_balance(a, b, earlier, settled=earlier != epoch)
        if theirs is None or theirs.completed != n or _epoch(theirs) != epoch:
            return
        where = f"exchange {n} of nodes {a} and {b}"
        assert mine.reference is not None
        assert theirs.reference is not None
        _demand(torch.equal(mine.reference, theirs.reference), f"{where}: the references differ")
        if n:
            assert mine.receipt is not None
            assert theirs.receipt is not None
            same = mine.receipt.mine == theirs.receipt.theirs
            same = same and mine.receipt.theirs == theirs.receipt.mine
            _demand(same, f"{where}: the ends have taken different halves")
            moved = self._moves[a, epoch, n] + self._moves[b, epoch, n]
            error = float(moved.abs().max())
            _demand(error <= EXACT, f"{where}: the sum has moved by {error}")

    def _check_balance(self, a: int, b: int, epoch: Epoch, *, settled: bool) -> None:
        here = self._nodes[a].book.done.get(b, {}).get(epoch, -1)
        there = self._nodes[b].book.done.get(a, {}).get(epoch, -1)
        excused = (min(a, b), max(a, b), epoch) in self._excused
        most = 0 if settled and not excused else 1
        if excused:
            most += self._lost.get((a, b, epoch), 0) + self._lost.get((b, a, epoch), 0)
        if settled and not excused:
            here, there = max(here, 0), max(there, 0)  # a snapshot moves nobody
        _demand(
            abs(here - there) <= most,
            f"nodes {a} and {b} have completed {here} and {there} exchanges of one epoch"
            + (" that is over" if settled else ""),
        )

    def _check_receipt(self, a: int, b: int, link: Exchange) -> None:
        """A link is up: without a receipt, it cannot be settled what was before."""
        done = self._nodes[a].book.done.get(b, {})
        if done and (link.receipt is None or link.receipt.epoch not in done):
            for epoch in done:
                self._excuse(a, b, epoch)

    def _link(self, a: int, b: int) -> Exchange | None:
        agent = _agent(self._simulation.nodes[a])
        return agent.links.get(self._simulation.nodes[b].peer.id) if agent else None

    # the whole swarm -----------------------------------------------------------------------------

    def unsettled(self) -> int:
        """How many exchanges one end has completed and the other one has not, or not any more;
        the sum of all models is off by these and by nothing else.

        Raises:
            Broken: it is off by something else.
        """
        count, error = 0, torch.zeros_like(self._nodes[0].x)
        for a, watched in self._nodes.items():
            error += watched.x - watched.book.own
            for b, epochs in watched.book.done.items():
                for epoch, n in epochs.items():
                    other = self._nodes[b].book.done.get(a, {}).get(epoch, 0)
                    for ahead in range(max(other, 0) + 1, n + 1):
                        count += 1
                        error -= self._moves[a, epoch, ahead]
        off = float(error.abs().max())
        _demand(off <= EXACT, f"the sum of all models is off by {off}, not explained by exchanges")
        return count

    def trouble(self) -> str:
        """Why this is not one swarm, whole and in step; empty if it is.

        Every link is there at both ends, in one epoch, and has exchanged since `fresh` was
        cleared; and the links connect all nodes.
        """
        links = {a: self._neighbours(a) for a in self._nodes}
        for a, others in links.items():
            for b in others:
                if a not in links[b]:
                    return f"node {b} knows nothing of its link with node {a}"
                mine, theirs = self.fresh.get((a, b)), self.fresh.get((b, a))
                link = self._link(a, b)
                if mine is None or mine != theirs or link is None or link.completed < 0:
                    return f"nodes {a} and {b} do not exchange"
        reached, waiting = {0: None}, [0]
        while waiting:
            new = [b for b in links[waiting.pop()] if b not in reached]
            reached |= dict.fromkeys(new)
            waiting += new
        apart = [a for a in links if a not in reached]
        return f"nodes {apart} are not connected with node 0" if apart else ""

    def _neighbours(self, a: int) -> list[int]:
        agent = _agent(self._simulation.nodes[a])
        return [self._index[peer] for peer in agent.links] if agent else []


def _agent(node: SimulatedNode) -> Agent | None:
    """None while it is down. The laws are those of our own algorithm."""
    assert node.agent is None or isinstance(node.agent, Agent)
    return node.agent


def check_bounds(agent: Agent) -> None:
    """Check every queue and table of one agent before its packets leave; this looks behind the
    scenes. Raises Broken."""
    swarm, config = agent.swarm, agent.swarm._config
    links, liveness = swarm._links, swarm._liveness
    depths = (
        ("packets", len(swarm._outbox), MOST_PACKETS),
        ("payloads", sum([len(link._outbox) for link in agent.links.values()]), 0),
        ("links", len(links.up), config.links.most),
        ("half-made links", len(links._all), 2 * config.links.most + config.overlay.passive),
        ("passive peers", len(swarm.passive), config.overlay.passive),
        ("lost peers", len(swarm._contacts._lost), config.lost),
        ("watched links", len(liveness._watched), len(links.up)),
        ("checks", len(liveness._checks), MOST_CHECKS),
        ("receipts", len(agent._receipts), KEPT_RECEIPTS),
        ("timers", len(swarm._timers._heap), MOST_TIMERS),
        ("timers of seeds", len(swarm._contacts._timers._heap), MOST_TIMERS),
        ("timers of links", len(links._timers._heap), MOST_TIMERS),
        ("timers of probes", len(liveness._timers._heap), MOST_TIMERS),
    )
    for name, depth, most in depths:
        if depth > most:
            raise Broken(f"{agent.me}: {depth} {name}, {most} at most")


def _travelled(node: SimulatedNode) -> Tensor:
    learner: Traveller = node.learner  # type: ignore[assignment]
    return learner.travelled


def _epoch(link: Exchange) -> Epoch:
    assert link.receipt is not None
    return link.receipt.epoch


def _demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Broken(otherwise)
