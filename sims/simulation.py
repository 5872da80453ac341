"""Many agents in virtual time: the very `Agent` that a node runs, with real encoded bytes.

Training is charged virtual seconds. What was merged into a model before a round began is in it,
what arrives during the round waits in the agent, exactly as in `gossip.Node`; so nobody sees a
round's outcome before the virtual time at which it ends, and alike rounds that are under way at the
same time are computed together (`sims.training`). A round that
ends in NaN is undone, and a node on which it happens time and again ends, as there. Of the
published algorithms that can run in the place of ours, some make training wait for messages; that
time passes as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from math import inf
from random import Random
from typing import Protocol

from torch import Tensor

from gossip.agent import Agent, AgentConfig, AgentStats
from gossip.errors import NotFinite
from gossip.exchange import Receipt
from gossip.learner import Learner, Probing, Resumable
from gossip.spans import Span, unwatched
from p2p import Address, Machine, Peer, PeerId, Swarm, SwarmConfig
from p2p.identity import Identity, verify
from sims.baselines.agent import BaselineAgent, Event, RoundCompleted
from sims.baselines.algorithm import Algorithm, Place
from sims.bodies import RememberedBodies
from sims.engines import Engine, local
from sims.fixed import FixedSwarm
from sims.network import Link, Network
from sims.report import Report
from sims.training import MOST, Trainee, Training

PORT = 7946
JITTER = 0.1  # of a round's duration, so that nodes do not march in step
SEEDS = 2  # the first nodes are the contacts of all others
HOPELESS = 5  # rounds in a row that end in NaN before a node ends, as in `gossip.node`
CHECKPOINT_EVERY = 10.0  # virtual seconds; what a crash can cost

# Every node checks the same signatures; here the first one does it for all.
verify_once = lru_cache(2**15)(verify)

MakeLearner = Callable[[], Learner]


def address_of(index: int) -> Address:
    """Where the node of that number is."""
    return Address(f"10.0.{index // 256}.{index % 256}", PORT)


class Participant(Machine[Event], Protocol):
    """What a node runs: `gossip.Agent`, or a published algorithm in its place."""

    swarm: Swarm
    samples: int

    @property
    def x(self) -> Tensor:
        """(n,) the model; a live view."""
        ...

    @property
    def handed_out(self) -> Tensor:
        """(n,) the model that training starts from; a live view."""
        ...

    @property
    def stats(self) -> AgentStats:
        """Counters since it was made."""
        ...

    def receipts(self) -> Mapping[PeerId, Receipt]:
        """What a checkpoint needs beside `x`."""
        ...

    def sync(self, parameters: Tensor, samples: int, now: float) -> Tensor | None:
        """Take in progress and hand out the merged model; None: it comes with `RoundCompleted`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationConfig:
    """What all nodes share."""

    train_seconds: float = 0.1
    """Virtual seconds that a round takes on a node of usual speed. A guess: ten steps of
    a small model on a small device."""

    evaluate_every: float = inf
    """Virtual seconds between evaluations of a node's model, for its record in the roster; they
    take no virtual time. inf: never, and records hold no metrics."""

    begin: float = 0.0
    """Virtual seconds before which nobody trains; time for links to form, in benchmarks."""

    stack: int = MOST
    """Rounds of training that are computed in one go at most; 1: one by one, to the same trace
    where the kernels allow it (see `sims.training`). The default is measured there."""

    engine: Engine | None = None
    """What computes them; None: threads on the other cores. It changes nothing but the time."""

    swarm: SwarmConfig = field(default_factory=SwarmConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)

    graph: Sequence[Sequence[int]] | None = None
    """The neighbours of every node; None: whom the overlay finds."""

    baseline: Callable[[Place], Algorithm] | None = None
    """A published algorithm that all nodes run in the place of ours; see `sims.baselines`."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What survives a crash."""

    x: Tensor
    samples: int
    receipts: Mapping[PeerId, Receipt]
    local: Mapping[str, Tensor]  # what training keeps, if its learner says so


@dataclass(slots=True)
class SimulatedNode:
    """One node; `agent` is None while it is down."""

    index: int
    peer: Peer
    identity: Identity
    make: MakeLearner
    slowdown: float
    rng: Random
    learner: Learner
    hostile: bool = False  # the report is about the others
    trainee: Trainee = field(init=False)  # trains `learner`
    agent: Participant | None = None
    incarnation: int = 0
    checkpoint: Checkpoint | None = None
    exchanges: int = 0  # of earlier incarnations
    sent: int = 0  # bytes, of earlier incarnations
    received: int = 0
    begun: float = 0.0  # when the round under way began
    rounds: int = 0  # of training that were synced
    failures: int = 0  # rounds in a row that ended in NaN
    metrics: dict[str, float] = field(default_factory=dict)
    evaluated: float = -inf  # when


class Simulation:
    """A swarm of agents on one event heap.

    Args:
        seed: everything is drawn from it; the same seed gives the same run, to the byte.
        link: between any two nodes.
    """

    def __init__(
        self, seed: int = 0, link: Link | None = None, config: SimulationConfig | None = None
    ) -> None:
        self.seed = seed
        self.nodes: list[SimulatedNode] = []
        self.lives: list[tuple[float, int, bool]] = []  # when which node came (True) or went
        self.network = Network(seed, link, self._on_event, self._on_step)
        self.span: Span = unwatched  # is told what takes wall time; to be set before nodes come
        self._config = config or SimulationConfig()
        self._identities: dict[int, tuple[Identity, Peer]] = {}
        self.training = Training(self._config.stack, self._config.engine or local())
        self._bodies = RememberedBodies()
        self._listeners: list[Callable[[int, Event, float], None]] = []
        self._watchers: list[Callable[[int], None]] = []

    @property
    def now(self) -> float:
        """Virtual seconds since the beginning."""
        return self.network.now

    @property
    def live(self) -> list[SimulatedNode]:
        """The nodes that are up."""
        return [node for node in self.nodes if node.agent is not None]

    # commands ------------------------------------------------------------------------------------

    def add(
        self,
        make: MakeLearner,
        *,
        slowdown: float = 1.0,
        hostile: bool = False,
        up: bool = True,
    ) -> int:
        """Add a node that trains `make()`; returns its index. The first nodes are the contacts.

        What a `hostile` one does is up to its learner (see `sims.attacks`); the report is about the
        others. One that is not `up` comes with `restart`.
        """
        index = len(self.nodes)
        if index >= 2**16:
            raise ValueError("a simulation has at most 65,536 nodes")
        identity, peer = self._who(index)
        rng = Random(f"node {self.seed}/{index}")
        node = SimulatedNode(index, peer, identity, make, slowdown, rng, make(), hostile)
        self.nodes.append(node)
        if up:
            self._start(node)
        return index

    def crash(self, index: int) -> None:
        """Stop a node without a word; what it did since its last checkpoint is lost."""
        node = self.nodes[index]
        if node.agent is None:
            raise ValueError(f"node {index} is down already")
        self.network.note("crash", index)
        node.trainee.give_up()
        host = self.network.detach(node.peer.address)
        self.lives.append((self.now, index, False))
        node.sent += host.sent
        node.received += host.received
        node.exchanges += node.agent.stats.exchanges
        node.agent = None

    def restart(self, index: int, *, forget: bool = False) -> None:
        """Start a crashed node again from its last checkpoint, or with nothing."""
        node = self.nodes[index]
        if node.agent is not None:
            raise ValueError(f"node {index} is up; crash it first")
        if forget:
            node.checkpoint = None
        self.network.note("restart", index)
        node.learner = node.make()
        self._start(node)

    def partition(self, *sides: Iterable[int]) -> None:
        """Cut the network between groups of nodes."""
        self.network.partition(*([self.nodes[i].peer.address for i in side] for side in sides))

    def cut(self, sources: Iterable[int], targets: Iterable[int]) -> None:
        """Let nothing pass from these nodes to those: half a partition."""
        here, there = ([self.nodes[i].peer.address for i in side] for side in (sources, targets))
        self.network.cut(here, there)

    def heal(self) -> None:
        """End partitions and cuts."""
        self.network.heal()

    def listen(self, listener: Callable[[int, Event, float], None]) -> None:
        """Have `listener(node, event, now)` called for every event of every agent."""
        self._listeners.append(listener)

    def watch(self, watcher: Callable[[int], None]) -> None:
        """Have `watcher(node)` called after everything that a node was made to do, when its events
        are told and its packets have not left yet."""
        self._watchers.append(watcher)

    def call_at(self, at: float, action: Callable[..., None], *arguments: object) -> None:
        """Have something done at a virtual time."""
        self.network.call_at(at, action, *arguments)

    def run(self, seconds: float) -> None:
        """Let virtual time pass."""
        with self.span("events"):
            self.network.run(seconds)

    def run_until(self, condition: Callable[[], bool], limit: float) -> bool:
        """Let time pass until the condition holds; False if it does not within `limit` seconds."""
        with self.span("events"):
            return self.network.run_until(condition, limit)

    def report(self) -> Report:
        """How the nodes that are up, hostile ones left out, are doing."""
        live = [node for node in self.live if not node.hostile]
        models = [node.agent.x for node in live if node.agent]
        accuracies = [node.learner.evaluate().get("accuracy", float("nan")) for node in live]
        exchanges = sum(node.exchanges for node in self.nodes)
        exchanges += sum(node.agent.stats.exchanges for node in self.live if node.agent)
        return Report.of(
            nodes=len(self.nodes),
            seed=self.seed,
            virtual_seconds=round(self.now, 6),
            accuracies=accuracies,
            models=models,
            bytes_sent=self.network.sent,
            exchanges=exchanges,
            trace=self.network.trace,
        )

    # what happens --------------------------------------------------------------------------------

    def _start(self, node: SimulatedNode) -> None:
        saved = node.checkpoint
        if saved is not None:
            node.learner.load(saved.x)
            if isinstance(node.learner, Resumable):
                node.learner.restore(saved.local)
        node.incarnation += 1
        self.lives.append((self.now, node.index, True))
        node.agent = self._participant(node, saved)
        node.trainee, node.failures = self.training.enrol(node.learner), 0
        self._publish(node, node.agent)
        contacts = [other.peer.address for other in self.nodes[:SEEDS] if other is not node]
        clock = self.network.clock(node.peer.address)
        node.agent.swarm.join(contacts, clock.read(self.now))
        self.network.attach(node.agent, node.peer.address)
        self._train_later(node)
        self.call_at(self.now + CHECKPOINT_EVERY, self._save, node, node.agent)

    def _participant(self, node: SimulatedNode, saved: Checkpoint | None) -> Participant:
        rng = Random(f"agent {self.seed}/{node.index}/{node.incarnation}")
        swarm = self._swarm(node, rng)
        layout = node.learner.layout
        x = node.learner.parameters() if saved is None else saved.x
        samples = saved.samples if saved else 0
        if self._config.baseline is None:
            receipts = saved.receipts if saved else None
            return Agent(
                swarm,
                layout,
                x,
                self._config.agent,
                rng,
                samples=samples,
                receipts=receipts,
                bodies=self._bodies,
                span=self.span,
            )
        return BaselineAgent(
            swarm,
            layout,
            x,
            rng,
            self._config.baseline,
            lambda: [other.peer for other in self.live],
            samples=samples,
        )

    def _swarm(self, node: SimulatedNode, rng: Random) -> Swarm:
        incarnation = node.incarnation + round(1e9 * self.now)
        sign, config, graph = node.identity.sign, self._config.swarm, self._config.graph
        if graph is None:
            return Swarm(node.peer, config, rng, incarnation, sign=sign, verify=verify_once)
        others = [self._who(index)[1] for index in graph[node.index]]
        return FixedSwarm(
            node.peer, config, rng, incarnation, others, sign=sign, verify=verify_once
        )

    def _who(self, index: int) -> tuple[Identity, Peer]:
        if index not in self._identities:
            identity = Identity.of(sha256(f"{self.seed}/{index}".encode()).digest())
            self._identities[index] = identity, Peer(identity.id, address_of(index))
        return self._identities[index]

    def _train_later(self, node: SimulatedNode) -> None:
        node.trainee.begin()
        seconds = self._config.train_seconds * node.slowdown
        seconds *= node.rng.uniform(1 - JITTER, 1 + JITTER)
        node.begun = max(self.now, self._config.begin)
        self.call_at(node.begun + seconds, self._trained, node, node.agent)

    def _trained(self, node: SimulatedNode, agent: Participant) -> None:
        """A round ends: compute it, sync it, and begin the next one with what was merged."""
        if node.agent is not agent:
            return  # the node has crashed meanwhile
        host = self.network.hosts[node.peer.address]
        if host.frozen > self.now:
            self.call_at(host.frozen, self._trained, node, agent)
            return
        clock = host.clock
        with self.span("training"):
            parameters, samples = node.trainee.finish()
        self.network.note("sync", node.index, sha256(parameters.numpy().data).hexdigest())
        try:
            merged = agent.sync(parameters, samples, clock.read(self.now))
            node.failures = 0
        except NotFinite:
            node.failures += 1
            if node.failures == HOPELESS:
                self.crash(node.index)
                return
            try:
                merged = agent.sync(agent.handed_out.clone(), 0, clock.read(self.now))
            except NotFinite:  # a published algorithm has diverged: there is nothing to go back to
                self.crash(node.index)
                return
        node.rounds += 1
        if self.now >= node.evaluated + self._config.evaluate_every:
            with self.span("evaluate"):
                node.metrics, node.evaluated = node.learner.evaluate(), self.now
        self._publish(node, agent)
        self.network.pump(node.peer.address)
        if merged is not None:
            self._go_on(node, merged, load=merged is not parameters)

    def _go_on(self, node: SimulatedNode, merged: Tensor, *, load: bool) -> None:
        if load:
            with self.span("load"):
                node.trainee.load(merged)
        if isinstance(node.agent, Agent) and isinstance(node.learner, Probing):
            probe = node.agent.probe()
            if probe is not None:
                node.agent.judge(probe.peer, *node.learner.probe(probe.parameters))
        self._train_later(node)

    def _publish(self, node: SimulatedNode, agent: Participant) -> None:
        agent.swarm.publish(f"node-{node.index}", agent.samples, node.metrics, self.now)

    def _save(self, node: SimulatedNode, agent: Participant) -> None:
        if node.agent is not agent:
            return
        local = node.learner.state() if isinstance(node.learner, Resumable) else {}
        node.checkpoint = Checkpoint(agent.x.clone(), agent.samples, agent.receipts(), local)
        self.call_at(self.now + CHECKPOINT_EVERY, self._save, node, agent)

    def _on_event(self, address: Address, event: Event, now: float) -> None:
        index = self._index(address)
        self.network.note(index, event)
        node = self.nodes[index]
        if isinstance(event, RoundCompleted) and node.agent is not None:
            self._go_on(node, node.agent.x.clone(), load=True)
        for listener in self._listeners:
            listener(index, event, now)

    def _on_step(self, address: Address) -> None:
        if self._watchers:
            index = self._index(address)
            for watcher in self._watchers:
                watcher(index)

    def _index(self, address: Address) -> int:
        _, _, high, low = address.host.split(".")
        return 256 * int(high) + int(low)
