"""The agent: it owns the public vector `x` and decides whom to exchange it with.

The agent never trains. Its driver hands it progress and takes back the merged model:

    x += parameters - (what `sync` handed out last)      the progress that training made
    hand out x                                           with all that was merged meanwhile

so merges that arrive while training runs are never lost, and training never waits. A model in half
precision cannot hold all of x, so what is handed out is rounded to what it can hold. The rest stays
in x and is handed out when it has grown, and is never mistaken for progress. After each
`sync` the agent starts at most one exchange, with the next neighbour in turn, unless the one it
started before is still under way; it answers others whenever they ask. That one-in-flight rule
keeps pairwise averaging stable where a message takes longer than a training round. A neighbour that
does not answer at all holds nobody up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from random import Random

import torch
from torch import Tensor

from gossip.body import Bodies
from gossip.budget import Budget, Limits
from gossip.chunks import CHUNK
from gossip.density import Motion
from gossip.errors import NotFinite
from gossip.exchange import (
    Exchange,
    ExchangeCompleted,
    ExchangeConfig,
    ExchangeEvent,
    ExchangeUndone,
    LinkOpened,
    PayloadRejected,
    Receipt,
)
from gossip.largest import squared_distance
from gossip.merging import Guard, Merge
from gossip.messages import MOST_SAMPLES
from gossip.spans import Span, unwatched
from gossip.trust import Probe
from gossip.vector import Layout, first_not_finite, hold
from p2p import (
    Packet,
    PayloadReceived,
    Peer,
    PeerDown,
    PeerId,
    PeerUp,
    Swarm,
    SwarmEvent,
    UnknownPeer,
)

KEPT_RECEIPTS = 64  # of links that are down; and no more bytes than the model has. A guess.


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """How an agent exchanges."""

    exchange: ExchangeConfig = field(default_factory=ExchangeConfig)
    """One setting for all links."""

    budget: str = ""
    """Bytes that learning may take: "64 KiB/s" of the node, or "2 KiB/exchange" of each half; see
    `gossip.budget`. Empty: as many as the control law finds worth it (`gossip.density`). Can change
    while the node runs (SIGHUP)."""

    merge: Merge = "mean"
    """What goes into the model. mean: everything, whoever it is from. clipped: no exchange moves it
    much further than our own training does, and neighbours whose models do badly on our samples
    move it less. trimmed: besides, nobody moves it beyond what others say; a vector more for each
    link. Both are for data that are alike from node to node: where they are not, honest neighbours
    look like liars, so neither is the default; `gossip.merging` says what that costs."""

    adopt_ratio: float = 10.0
    """A newcomer that has never exchanged takes over a neighbour's model if that has seen more
    than this many times its own samples. Measured: late joiners without it lose 3 points
    and more under skew. The value is a guess."""

    def __post_init__(self) -> None:
        Limits.parse(self.budget)


@dataclass(frozen=True, slots=True)
class ModelAdopted:
    """This agent came late and took over a neighbour's model."""

    peer: PeerId
    samples: int


AgentEvent = SwarmEvent | ExchangeEvent | ModelAdopted


@dataclass(slots=True)
class AgentStats:
    """Plain counters, since the agent was made or restored."""

    rounds: int = 0  # of training that were taken in
    exchanges: int = 0
    bytes_dense: int = 0  # what the same halves would be in plain float32


class Agent:
    """A machine that learns with others. See `p2p.machine` for the verbs.

    Args:
        swarm: finds the neighbours and carries the bytes.
        layout: of the model; peers with another one are refused.
        parameters: (n,) float32, the model to start from; copied. Where it is, on the CPU or an
            accelerator, are `x` and the references.
        rng: draws link epochs.
        samples: how many samples `parameters` has seen, adopted ancestors included.
        receipts: of earlier links, from `receipts()` of the agent that this one continues.
        bodies: writes and reads what links exchange.
        span: is told what takes long.
    """

    def __init__(
        self,
        swarm: Swarm,
        layout: Layout,
        parameters: Tensor,
        config: AgentConfig,
        rng: Random,
        *,
        samples: int = 0,
        receipts: Mapping[PeerId, Receipt] | None = None,
        bodies: Bodies | None = None,
        span: Span = unwatched,
    ) -> None:
        _refuse_not_finite(layout, parameters)
        self.swarm = swarm
        self.layout = layout
        self.samples = samples
        self.stats = AgentStats()
        self._config = config
        self._rng = rng
        self._bodies = bodies
        self._span = span
        self._x = parameters.clone()
        self._handed_out = parameters.clone()
        hold(layout, self._handed_out)
        self._merged = False  # whether x has moved since it was handed out
        self._newcomer = not receipts
        self._receipts: dict[PeerId, Receipt] = dict(receipts or {})
        self._links: dict[PeerId, Exchange] = {}
        self._motion = Motion()
        self.guard = Guard(config.merge, self._motion)
        self._budget = Budget(Limits.parse(config.budget))
        self._turn = 0
        self._probed = 0
        self._initiative: Exchange | None = None

    @property
    def me(self) -> Peer:
        """Who this is on the network."""
        return self.swarm.me

    @property
    def x(self) -> Tensor:
        """(n,) the public vector; a live view, not to be written to."""
        return self._x

    @property
    def handed_out(self) -> Tensor:
        """(n,) what the model held when training went on; a live view, not to be written to."""
        return self._handed_out

    @property
    def links(self) -> Mapping[PeerId, Exchange]:
        """The exchange with each neighbour, in the order in which the links came up."""
        return self._links

    def receipts(self) -> dict[PeerId, Receipt]:
        """What settling the links later needs; belongs into every checkpoint beside `x`."""
        live = {peer: link.receipt for peer, link in self._links.items() if link.receipt}
        return self._receipts | live

    # commands ------------------------------------------------------------------------------------

    def sync(self, parameters: Tensor, samples: int, now: float) -> Tensor:
        """Take in what training made of the model and hand out the merged one.

        Args:
            parameters: (n,) float32, grown out of what was handed out last.
            samples: how many samples that took.

        Returns:
            `parameters` itself if nothing was merged since the last call, so that who trains alone
            trains exactly as without us; else `handed_out`, the agent's own buffer, valid until
            the next `sync`; read it, do not write to it. The model can hold it exactly.

        Raises:
            NotFinite: NaN or infinity in `parameters`; nothing has changed. Names the layer.
        """
        if parameters.shape != self._x.shape:
            raise ValueError(
                f"the model has {self._x.numel()} coordinates, not {tuple(parameters.shape)}"
            )
        _refuse_not_finite(self.layout, parameters)
        if samples:
            cut = self.layout.parameters
            self.stats.rounds += 1
            self._motion.measure(squared_distance(parameters[:cut], self._handed_out[:cut]))
        merged, self._merged = self._merged, False
        for start in range(0, self.layout.size, CHUNK):  # one pass over memory, not four
            piece = slice(start, start + CHUNK)
            x, held, now_held = self._x[piece], self._handed_out[piece], parameters[piece]
            # In this order nothing rounds for who trains alone: x - held is then 0.
            x.sub_(held).add_(now_held)
            held.copy_(x if merged else now_held)
        hold(self.layout, self._handed_out)
        self._grow(samples)
        self._exchange_with_next(now)
        return self._handed_out if merged else parameters

    def probe(self) -> Probe | None:
        """After a `sync`, whose model to take the loss of, for `judge`; None: nobody's."""
        links = [link for link in self._links.values() if link.reference is not None]
        if not self.guard.asks or not links:
            return None
        self._probed += 1
        link = links[self._probed % len(links)]
        assert link.reference is not None
        model, cut = 2 * link.reference - self._x, self.layout.parameters
        model[cut:] = self._x[cut:]  # a running variance of less than 0 is none
        return Probe(link.peer.id, model)

    def judge(self, peer: PeerId, theirs: float, ours: float) -> None:
        """Say what `probe` came to: the losses of its model and of ours on the same samples."""
        if peer in self._links:
            self.guard.trust.judge(peer, theirs, ours)

    def replace(self, parameters: Tensor) -> None:
        """Go on from another model, (n,) float32; the next `sync` hands it out.

        It counts as progress: what training does meanwhile is added to it, and neighbours receive
        the difference as they receive any. Raises NotFinite, with nothing changed.
        """
        if parameters.shape != self._x.shape:
            raise ValueError(
                f"the model has {self._x.numel()} coordinates, not {tuple(parameters.shape)}"
            )
        _refuse_not_finite(self.layout, parameters)
        self._x.copy_(parameters)
        self._merged = True
        self._newcomer = False  # somebody wants this model, not a neighbour's

    def limit(self, budget: str, now: float) -> None:
        """Give learning another budget from now on. Raises ValueError if it is none."""
        self._budget.limit(Limits.parse(budget), now)

    def rest(self, until: float, now: float) -> None:
        """Exchange nothing until then, and tell the neighbours; a time that has passed ends it.

        The links stay up, and training goes on.
        """
        rested = self._budget.rests(now)
        self._budget.rest(until)
        if rested or self._budget.rests(now):
            for link in self._links.values():
                link.rest(now)
                self._send(link, now)

    def leave(self, now: float) -> list[AgentEvent]:
        """Say goodbye to the swarm; send what `poll_transmit` then gives."""
        return self._follow(self.swarm.leave(now), now)

    def expel(self, peer: PeerId, reason: str, now: float) -> list[AgentEvent]:
        """End the link with a peer, if there is one."""
        return self._follow(self.swarm.expel(peer, reason, now), now)

    # the verbs -----------------------------------------------------------------------------------

    def receive(self, packet: Packet, now: float) -> list[AgentEvent]:
        """Take a packet from the network. Never raises on a peer's bytes."""
        events = self._follow(self.swarm.receive(packet, now), now)
        for event in list(events):
            if isinstance(event, PayloadRejected):
                events += self._follow(self.swarm.blame(packet.peer, event.reason, now), now)
        return events

    def handle_timeout(self, now: float) -> list[AgentEvent]:
        """Do what is due. Calling early does nothing."""
        events = self._follow(self.swarm.handle_timeout(now), now)
        for link in list(self._links.values()):
            if link.next_timeout() <= now:
                events += link.handle_timeout(now)
                self._send(link, now)
        return events

    def poll_transmit(self) -> Packet | None:
        """The next packet to send, or None."""
        return self.swarm.poll_transmit()

    def next_timeout(self) -> float:
        """When `handle_timeout` wants to be called."""
        return min([self.swarm.next_timeout(), *map(Exchange.next_timeout, self._links.values())])

    # links ---------------------------------------------------------------------------------------

    def _follow(self, swarm_events: list[SwarmEvent], now: float) -> list[AgentEvent]:
        events: list[AgentEvent] = []
        for event in swarm_events:
            match event:
                case PayloadReceived(peer, payload):
                    link = self._links[peer.id]
                    events += self._merge(link.receive(payload, self.samples, now))
                    self._send(link, now)
                case PeerUp(peer):
                    receipt = self._receipts.pop(peer.id, None)
                    link = Exchange(
                        self.swarm.me.id,
                        peer,
                        self._x,
                        self.layout,
                        self._config.exchange,
                        self._rng,
                        receipt,
                        motion=self._motion,
                        budget=self._budget,
                        guard=self.guard,
                        bodies=self._bodies,
                        span=self._span,
                    )
                    self._links[peer.id] = link
                    link.open(self.samples, now)
                    self._send(link, now)
                    events.append(event)
                case PeerDown(peer):
                    self._drop(self._links.pop(peer.id))
                    self.guard.forget(peer.id)
                    events.append(event)
                case _:
                    events.append(event)
        return events

    def _drop(self, link: Exchange) -> None:
        if link is self._initiative:
            self._initiative = None
        if link.receipt:
            self._receipts[link.peer.id] = link.receipt
            while (
                len(self._receipts) > KEPT_RECEIPTS or self._receipt_bytes() > 4 * self.layout.size
            ):
                del self._receipts[next(iter(self._receipts))]

    def _receipt_bytes(self) -> int:
        return sum(len(kept.mine) + len(kept.theirs) for kept in self._receipts.values())

    def _merge(self, happened: list[ExchangeEvent]) -> list[AgentEvent]:
        events: list[AgentEvent] = []
        for event in happened:
            events.append(event)
            match event:
                case ExchangeCompleted():
                    self._merged = True
                    self._newcomer = False
                    self.stats.exchanges += 1
                    self.stats.bytes_dense += 4 * self.layout.size
                case ExchangeUndone():
                    self._merged = True
                case LinkOpened() if self._adopts(event):
                    self._adopt(event)
                    events.append(ModelAdopted(event.peer.id, event.samples))
        return events

    def _adopts(self, opened: LinkOpened) -> bool:
        return self._newcomer and opened.samples > self._config.adopt_ratio * self.samples

    def _adopt(self, opened: LinkOpened) -> None:
        reference = self._links[opened.peer.id].reference
        assert reference is not None
        self._x.copy_(reference)
        self._grow(opened.samples)
        self._merged = True
        self._newcomer = False

    def _grow(self, samples: int) -> None:
        self.samples = min(self.samples + samples, MOST_SAMPLES)

    def _exchange_with_next(self, now: float) -> None:
        if self._initiative and self._initiative.waiting and not self._initiative.overdue:
            return
        if not self._budget.allows(now):
            return
        links = list(self._links.values())
        for step in range(len(links)):
            link = links[(self._turn + step) % len(links)]
            if link.start(now):
                self._turn = (self._turn + step + 1) % len(links)
                self._initiative = link
                self._send(link, now)
                return

    def _send(self, link: Exchange, now: float) -> None:
        while (payload := link.poll_transmit()) is not None:
            self._budget.spend(len(payload))
            try:
                self.swarm.send(link.peer.id, payload, now)
            except UnknownPeer:
                return  # the swarm has dropped the link; its PeerDown is among the events to come


def _refuse_not_finite(layout: Layout, parameters: Tensor) -> None:
    # One pass: a sum is finite only if every summand is. A sum of finite numbers may overflow,
    # so the slow way has the last word.
    if isfinite(float(torch.sum(parameters))):
        return
    layer = first_not_finite(layout, parameters)
    if layer is not None:
        raise NotFinite(
            f"the parameters of {layer!r} contain NaN or infinity; lower the learning rate or "
            "clip gradients. The model was not merged."
        )
