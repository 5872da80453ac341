"""A published algorithm as a machine, in the place of `gossip.Agent`.

The same swarm finds the neighbours, and carries what is said to them; what an algorithm says to
anybody else (the papers of some assume that everybody can be reached) goes there directly. All of
it travels as streams, because the papers assume channels that lose nothing. What a stream loses
after all, across a partition, is said again after a while by those that would wait for ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from random import Random

from torch import Tensor

from gossip.agent import AgentEvent, AgentStats
from gossip.errors import GossipError, NotFinite
from gossip.exchange import PayloadRejected, Receipt
from gossip.messages import MOST_SAMPLES
from gossip.vector import Layout, first_not_finite
from p2p import (
    Channel,
    Packet,
    PacketRejected,
    PayloadReceived,
    Peer,
    PeerDown,
    PeerId,
    PeerUp,
    Swarm,
    SwarmEvent,
    UnknownPeer,
    WireError,
)
from sims.baselines.algorithm import TABLE, Algorithm, Place

DIRECT = b"\xc1"  # before what does not belong to a link; no frame of the swarm begins so
PATIENCE = 2.0  # seconds until a node that waits says its last words again; far above any latency


@dataclass(frozen=True, slots=True)
class RoundCompleted:
    """What `sync` had to wait for has come: `x` is the merged model, and training goes on."""

    round: int


Event = AgentEvent | RoundCompleted
Everybody = Callable[[], Sequence[Peer]]


class BaselineAgent:
    """A machine that learns with others by `algorithm`. See `p2p.machine` for the verbs.

    Args:
        parameters: (n,) float32, the model to start from; copied.
        everybody: all peers that are up, for algorithms that suppose such knowledge; free.
    """

    def __init__(
        self,
        swarm: Swarm,
        layout: Layout,
        parameters: Tensor,
        rng: Random,
        algorithm: Callable[[Place], Algorithm],
        everybody: Everybody,
        *,
        samples: int = 0,
    ) -> None:
        self.swarm = swarm
        self.layout = layout
        self.samples = samples
        self._everybody = everybody
        self._handed_out = parameters.clone()
        self._merges = 0  # of the algorithm, at that time
        self._due = inf
        self._outbox: deque[Packet] = deque()
        self.algorithm = algorithm(
            Place(swarm.me.id, parameters.clone(), rng, lambda: [peer.id for peer in everybody()])
        )

    @property
    def me(self) -> Peer:
        """Who this is on the network."""
        return self.swarm.me

    @property
    def x(self) -> Tensor:
        """(n,) the model; a live view, not to be written to."""
        return self.algorithm.x

    @property
    def handed_out(self) -> Tensor:
        """(n,) the model that training went on from; a live view, not to be written to."""
        return self._handed_out

    @property
    def stats(self) -> AgentStats:
        """How often the model was merged with others."""
        return AgentStats(exchanges=self.algorithm.merges)

    def receipts(self) -> Mapping[PeerId, Receipt]:
        """Nothing: links are not settled."""
        return {}

    # commands ------------------------------------------------------------------------------------

    def sync(self, parameters: Tensor, samples: int, now: float) -> Tensor | None:
        """As `gossip.Agent.sync`; None where training must wait for `RoundCompleted`."""
        layer = first_not_finite(self.layout, parameters)
        if layer is not None:
            raise NotFinite(f"the parameters of {layer!r} contain NaN or infinity")
        self.samples = min(self.samples + samples, MOST_SAMPLES)
        self.algorithm.trained(parameters - self._handed_out)
        self._transmit(now)
        if self.algorithm.waiting:
            self._due = now + PATIENCE
            return None
        if self._merges == self.algorithm.merges:
            self._handed_out = parameters.clone()
            return parameters
        return self._hand_out()

    def leave(self, now: float) -> Sequence[Event]:
        """Say goodbye to the swarm; send what `poll_transmit` then gives."""
        return self._follow(self.swarm.leave(now), now)

    # the verbs -----------------------------------------------------------------------------------

    def receive(self, packet: Packet, now: float) -> Sequence[Event]:
        """Take a packet from the network. Never raises on a peer's bytes."""
        if packet.data[:1] != DIRECT:
            return self._follow(self.swarm.receive(packet, now), now)
        for peer in self._everybody():
            if peer.address == packet.address:
                return self._hear(peer, memoryview(packet.data)[1:], now)
        return [PacketRejected(packet.address, "nobody is known there")]

    def handle_timeout(self, now: float) -> Sequence[Event]:
        """Do what is due. Calling early does nothing."""
        events = self._follow(self.swarm.handle_timeout(now), now)
        if self._due <= now:
            self._due = now + PATIENCE
            self.algorithm.repeat()
            events += self._settle(now)
        return events

    def poll_transmit(self) -> Packet | None:
        """The next packet to send, or None."""
        return self._outbox.popleft() if self._outbox else self.swarm.poll_transmit()

    def next_timeout(self) -> float:
        """When `handle_timeout` wants to be called."""
        return min(self._due, self.swarm.next_timeout())

    # what happens --------------------------------------------------------------------------------

    def _follow(self, swarm_events: Sequence[SwarmEvent], now: float) -> list[Event]:
        events: list[Event] = []
        for event in swarm_events:
            match event:
                case PayloadReceived(peer, payload):
                    events += self._hear(peer, payload, now)
                    continue
                case PeerUp(peer):
                    self.algorithm.up(peer.id)
                case PeerDown(peer):
                    self.algorithm.down(peer.id)
                case _:
                    pass
            events.append(event)
            events += self._settle(now)
        return events

    def _hear(self, peer: Peer, payload: memoryview, now: float) -> list[Event]:
        try:
            word, body = TABLE.decode(payload)
            self.algorithm.heard(peer.id, word, body)
        except (WireError, GossipError) as error:
            return [PayloadRejected(peer, str(error))]
        return self._settle(now)

    def _settle(self, now: float) -> list[Event]:
        """Send what there is to say; tell if a wait is over."""
        self._transmit(now)
        if self._due == inf or self.algorithm.waiting:
            return []
        self._due = inf
        self._hand_out()
        return [RoundCompleted(self.algorithm.round)]

    def _hand_out(self) -> Tensor:
        self._merges = self.algorithm.merges
        self._handed_out = self.algorithm.x.clone()
        return self._handed_out

    def _transmit(self, now: float) -> None:
        words = self.algorithm.outbox
        if not words:
            return
        self._outbox.extend(iter(self.swarm.poll_transmit, None))
        while words:
            peer, word, body = words.popleft()
            payload = TABLE.encode(word, body)
            try:
                self.swarm.send(peer, payload, now)
            except UnknownPeer:
                self._outbox += [
                    Packet(other.address, DIRECT + payload, Channel.STREAM)
                    for other in self._everybody()
                    if other.id == peer
                ]
        said = iter(self.swarm.poll_transmit, None)
        self._outbox.extend(replace(packet, channel=Channel.STREAM) for packet in said)
