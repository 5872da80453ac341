"""The swarm: finds peers, keeps a few as neighbours, and carries bytes to them.

A machine (see `p2p.machine`) made of parts: `Links` makes, confirms and watches links, `Overlay`
decides with whom, `Contacts` keeps trying seeds and lost peers. This one reads messages off the
wire, gives each to the part that it concerns, and fills the view whenever a link is missing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from p2p.buckets import Buckets
from p2p.conduct import Conduct, Standing
from p2p.contacts import Contacts, ContactsConfig
from p2p.errors import UnknownMessage, UnknownPeer, WireError
from p2p.events import (
    PacketRejected,
    PayloadReceived,
    PeerDown,
    PeerUp,
    RecordRejected,
    SwarmEvent,
)
from p2p.identity import verify
from p2p.link import Link, LinkConfig, LinkDown, LinkEvent, LinkUp, RequestFailed, RequestRefused
from p2p.links import Links
from p2p.liveness import Liveness, LivenessConfig
from p2p.messages import (
    TABLE,
    VERSION,
    Accept,
    Check,
    Checked,
    Digest,
    Disconnect,
    Message,
    Payload,
    Ping,
    PingRequest,
    Pong,
    Records,
    Refuse,
    Request,
    Shuffle,
    Shuffled,
    Unknown,
    Vouch,
    Walk,
    Wanted,
)
from p2p.overlay import Overlay, OverlayConfig
from p2p.packet import MAX_DATAGRAM, Channel, Packet, Source
from p2p.peer import Address, Peer, PeerId
from p2p.record import Sign, Verify
from p2p.roster import Roster, RosterConfig
from p2p.timers import Timers

REQUESTS = 20.0  # at once
UNMETERED = (Payload, Digest, Wanted, Records)  # exchanges and the roster have limits of their own
MOST_KNOWN = 200  # peers worth saving


@dataclass(frozen=True, slots=True, kw_only=True)
class SwarmConfig(ContactsConfig):
    """How a peer takes part in the network."""

    links: LinkConfig = field(default_factory=LinkConfig)
    liveness: LivenessConfig = field(default_factory=LivenessConfig)
    overlay: OverlayConfig = field(default_factory=OverlayConfig)
    roster: RosterConfig = field(default_factory=RosterConfig)

    repair_every: float = 1.0
    """Seconds between attempts to fill the active view; doubles while others have no room. A
    guess."""

    repair_most: float = 8.0
    """Seconds; where that doubling ends. So seldom do walks (`OverlayConfig.seek_walk`) find the
    last others that lack a link that with 30 s one peer in 200 would lack one, at any time."""

    requests: float = 1.0
    """Requests for a link that one peer may send a second; 20 at once. A guess: it repeats one
    three times in 4 s, and has no more than a few under way."""


Apart = Accept | Refuse | Disconnect | Unknown | Shuffled | Check | Checked
Timer = Literal["repair", "shuffle", "reunite"]


class Swarm:
    """One peer of the network. See `p2p.machine` for the verbs.

    Args:
        me: who we are and where others reach us.
        rng: draws tokens and steps of walks; strangers must not be able to foresee it.
        incarnation: rises with every start of this peer (nanoseconds since 1970 do).
        sign: with the key that is our id; None: we publish no record in the roster.
        verify: checks what others have signed.
        conduct: judges those who send us packets. None: nobody is judged, nothing is too much.
    """

    def __init__(
        self,
        me: Peer,
        config: SwarmConfig,
        rng: Random,
        incarnation: int,
        *,
        sign: Sign | None = None,
        verify: Verify = verify,
        conduct: Conduct | None = None,
    ) -> None:
        self.me = me
        self._conduct = conduct
        self._config = config
        self._rng = rng
        self._outbox: deque[Packet] = deque()
        self._liveness = Liveness(
            me, config.liveness, rng, self._say, lambda: self._links.up.values()
        )
        self._links = Links(
            me, config.links, rng, incarnation, self._say, self._liveness, self._suggest
        )
        self._overlay = Overlay(me, config.overlay, rng, self._links, self._say)
        self.roster = Roster(me, config.roster, rng, incarnation, self._say, sign, verify)
        round_ = config.links.request_timeout * 2**config.links.request_attempts
        self._contacts = Contacts(me, config, rng, self._links, round_)
        self._timers: Timers[Timer] = Timers()
        self._repair_delay = config.repair_every
        self._asking: Buckets[Source] = Buckets(config.requests, REQUESTS)

    @property
    def neighbours(self) -> Mapping[PeerId, Link]:
        """The links that are up, oldest first."""
        return self._links.up

    @property
    def passive(self) -> Mapping[PeerId, Peer]:
        """Peers known besides the neighbours."""
        return self._overlay.passive

    def known(self) -> tuple[Peer, ...]:
        """Whom to save and hand to `join` after a restart, the best first: the neighbour of longest
        standing, which is the *anchor*, the other neighbours, the passive view."""
        neighbours = [link.peer for link in self._links.up.values() if link.peer]
        return (*neighbours, *self._overlay.passive.values())[:MOST_KNOWN]

    def rtt(self, peer: PeerId) -> float:
        """Seconds to a neighbour and back, smoothed; 0 before the first measurement."""
        return self._link_to(peer).round_trip.smoothed

    # commands ------------------------------------------------------------------------------------

    def join(self, seeds: Iterable[Address], now: float, *, cached: Sequence[Peer] = ()) -> None:
        """Get in touch with the network through these; keeps trying until each has answered.

        Args:
            cached: what `known` gave before a restart. The first is asked for a link at once, the
                others when that was not enough; who does not answer counts as lost, and is tried
                now and then.
        """
        met = [peer for peer in cached if peer.id != self.me.id][: self._config.overlay.passive]
        for peer in met:
            self._overlay.remember(peer)
        if met:
            self._links.request(met[0], now, joining=True)
            self._repair_soon(now)
            self._later("reunite", self._config.reunite_every, now)
        self._contacts.add(seeds, now)

    def forget(self, seeds: Iterable[Address]) -> None:
        """Stop trying these; links that were made through them stay."""
        self._contacts.forget(seeds)

    def meet(self, peer: Peer, now: float) -> None:
        """Get to know somebody, and ask for a link if one is missing. If nobody answers, that is
        the end of it."""
        self._overlay.remember(peer)
        if self._links.room > 0:
            self._links.request(peer, now, joining=not self._links.up)

    def send(self, peer: PeerId, payload: bytes, now: float) -> None:
        """Send bytes to a neighbour: as a datagram if they fit one, else as a stream.

        Delivery is best effort either way. Raises UnknownPeer.
        """
        link = self._link_to(peer)
        self._put(link.to, TABLE.encode(Payload(link.theirs), payload))

    def publish(self, name: str, samples: int, metrics: Mapping[str, float], now: float) -> None:
        """Tell the network how we are; see `Roster.publish`."""
        self.roster.publish(name, samples, metrics, now)

    def leave(self, now: float) -> list[SwarmEvent]:
        """Say goodbye to all neighbours; transmit what is left, then let go of this object."""
        events: list[SwarmEvent] = []
        self.roster.leave(now)
        for link in list(self._links.up.values()):
            assert link.peer is not None
            self._links.drop(link, leaving=True)
            events.append(PeerDown(link.peer, "we left"))
        self._timers = Timers()
        self._contacts.stop()
        return events

    # the verbs -----------------------------------------------------------------------------------

    def receive(self, packet: Packet, now: float) -> list[SwarmEvent]:
        """Take a packet from the network. Never raises on a peer's bytes."""
        try:
            message, body = TABLE.decode(packet.data)
        except WireError as error:
            if not self._admits(packet, None, now):
                return []
            fault = None if isinstance(error, UnknownMessage) else packet.peer
            rejected = PacketRejected(packet.address, str(error))
            return [rejected, *self.blame(fault, str(error), now)]
        if not self._admits(packet, message, now):
            return []
        claimed = _claimed(message)
        if claimed is not None and packet.peer not in (None, claimed.id):
            reason = f"claims to be {claimed.id.short}"
            rejected = PacketRejected(packet.address, reason)
            return [rejected, *self.blame(packet.peer, reason, now)]
        if isinstance(message, Request):
            return self._on_request(message, packet, now)
        if isinstance(message, Apart):
            return self._on_apart(message, packet, now)
        link, happened = self._links.on_link(message.token, packet.peer, now)
        events = self._follow(happened, now)
        if link is None:
            # Only datagrams come from the port on which their sender listens. No answer is longer
            # than what it answers, and answers are not answered.
            if packet.channel is Channel.DATAGRAM and not isinstance(message, Pong):
                self._say(packet.address, Unknown(message.token))
        else:
            link.received += len(packet.data)
            if isinstance(message, Pong):
                link.channel = packet.channel
                self._liveness.on_pong(link, message, now)
            self._liveness.hear(link, now)
            said = self._on_link(link, message, body, packet, now)
            events += said
            for event in said:
                if isinstance(event, RecordRejected):  # an honest neighbour passes none on
                    events += self.blame(packet.peer, event.reason, now)
        return events

    def handle_timeout(self, now: float) -> list[SwarmEvent]:
        """Do what is due. Calling early does nothing."""
        events = self._follow(self._links.handle_timeout(now), now)
        for link in self._liveness.handle_timeout(now):
            events += self._follow(self._links.bury(link, now), now)
        self.roster.handle_timeout(now)
        for timer in self._timers.pop_expired(now):
            match timer:
                case "repair":
                    self._repair(now)
                case "shuffle":
                    self._overlay.shuffle()
                    self._overlay.swap(now)
                    self._later("shuffle", self._config.overlay.shuffle_every, now)
                case "reunite":
                    self._contacts.reunite(now)
                    self._later("reunite", self._config.reunite_every, now)
        return [*events, *self._contacts.handle_timeout(now)]

    def poll_transmit(self) -> Packet | None:
        """The next packet to send, or None."""
        return self._outbox.popleft() if self._outbox else None

    def next_timeout(self) -> float:
        """When `handle_timeout` wants to be called."""
        return min(
            self._links.next_timeout(),
            self._liveness.next_timeout(),
            self.roster.next_timeout(),
            self._contacts.next_timeout(),
            self._timers.next(),
        )

    # who may -------------------------------------------------------------------------------------

    def _admits(self, packet: Packet, message: Message | None, now: float) -> bool:
        """Whether anything is to be done about this message of whoever sent it."""
        if self._conduct is None:
            return True
        if not isinstance(message, UNMETERED) and not self._conduct.affords(packet, now):
            return False
        standing = self._conduct.standing(packet.peer, now) if packet.peer else Standing.GOOD
        if standing is Standing.GOOD:
            return True
        if standing is Standing.GRAYLISTED:
            if isinstance(message, Request) and packet.peer and packet.channel is Channel.DATAGRAM:
                self._say(Peer(packet.peer, packet.address), Refuse(message.token, ()))
            if isinstance(message, Check):
                return True  # we live, and whoever asks for somebody else should know
        self._conduct.dropped += 1
        return False

    def blame(self, peer: PeerId | None, reason: str, now: float) -> list[SwarmEvent]:
        """Hold what no honest peer sends against whoever has proven to have sent it."""
        if self._conduct is None or peer is None:
            return []
        verdict = self._conduct.blame(peer, reason, now)
        return [] if verdict is None else [verdict, *self.expel(peer, reason, now)]

    def expel(self, peer: PeerId, reason: str, now: float) -> list[SwarmEvent]:
        """End the link with a peer, if there is one, and do not ask for another."""
        self._overlay.forget(peer)
        self._contacts.drop(peer)
        link = self._links.up.get(peer)
        if link is None or link.peer is None:
            return []
        self._links.drop(link)
        self.roster.on_down(peer, now)
        self._repair_soon(now)
        return [PeerDown(link.peer, reason)]

    @property
    def waiting(self) -> int:
        """Packets to be transmitted. One verb adds a bounded number, and drivers take all."""
        return len(self._outbox)

    # what happens --------------------------------------------------------------------------------

    def _on_request(self, request: Request, packet: Packet, now: float) -> list[SwarmEvent]:
        address, reason = packet.address, None
        if not _plausible(request.sender, packet):
            reason = f"says that it listens at {request.sender.address}"
        elif request.version != VERSION:
            address = request.sender.address
            reason = f"speaks version {request.version} of the protocol, not {VERSION}"
        elif not self._asking.take(packet.source, now):
            reason = "asks for links too often"
        if reason is not None:
            return [PacketRejected(address, reason)]
        return self._follow(self._links.on_request(request, now), now)

    def _on_apart(self, message: Apart, packet: Packet, now: float) -> list[SwarmEvent]:
        """What travels on no link that is up, or ends one."""
        match message:
            case Accept():
                return self._follow(self._links.on_accept(message, now), now)
            case Refuse():
                return self._follow(self._links.on_refuse(message, packet.source), now)
            case Disconnect():
                return self._follow(self._links.on_disconnect(message), now)
            case Unknown():
                return self._follow(self._links.on_unknown(message, packet.address), now)
            case Shuffled():
                self._overlay.on_shuffled(message, packet.source, now)
            case Check():
                datagram = packet.channel is Channel.DATAGRAM
                to = packet.address if datagram else message.sender
                if message.target == self.me.id and to is not None:
                    self._say(to, Checked(message.number))
            case Checked():
                self._liveness.on_checked(message)
        return []

    def _on_link(
        self, link: Link, message: Message, body: memoryview, packet: Packet, now: float
    ) -> list[SwarmEvent]:
        source = packet.peer or link.address  # not that of the packet: it may be a stream
        match message:
            case Ping():
                self._liveness.on_ping(link, message, stream=packet.channel is Channel.STREAM)
            case PingRequest():
                self._liveness.on_ping_request(link, message, now)
            case Vouch():
                self._liveness.on_vouch(link, message, now)
            case Walk():
                self._overlay.on_walk(link, message, source, now)
            case Shuffle():
                self._overlay.on_shuffle(link, message, source, now)
            case Digest():
                self.roster.on_digest(link, message)
            case Wanted():
                self.roster.on_wanted(link, message, now)
            case Records():
                return [*self.roster.on_records(link, message, now)]
            case Payload():
                assert link.peer is not None
                return [PayloadReceived(link.peer, body)]
        return []

    def _follow(self, happened: Sequence[LinkEvent], now: float) -> list[SwarmEvent]:
        events: list[SwarmEvent] = []
        for event in happened:
            match event:
                case LinkUp(link, joined):
                    assert link.peer is not None
                    self._on_up(link, link.peer, joined, now)
                    events.append(PeerUp(link.peer))
                case LinkDown(peer, reason, reachable, instead, ours):
                    self.roster.on_down(peer.id, now)
                    if reachable:
                        self._overlay.remember(peer)
                    if instead is not None and instead.id != self.me.id:
                        self._links.request(instead, now, ours=ours)
                    self._repair_soon(now)
                    events.append(PeerDown(peer, reason))
                case RequestRefused(address, peers, source):
                    self._contacts.answered(address)
                    self._overlay.learn(peers, source, now)
                    if self._links.room > 0:
                        self._overlay.seek()
                    self._later("repair", self._repair_delay, now)
                    self._repair_delay = min(2 * self._repair_delay, self._config.repair_most)
                case RequestFailed(_, peer):
                    if peer is not None:
                        self._overlay.forget(peer.id)
                        self._contacts.lose(peer)
                    self._repair_soon(now)
        return events

    def _on_up(self, link: Link, peer: Peer, joined: bool, now: float) -> None:
        self._overlay.forget(peer.id)
        self.roster.on_up(link, now)
        self._contacts.drop(peer.id)
        self._contacts.answered(link.address)
        if joined:
            self._overlay.introduce(peer)
        if "shuffle" not in self._timers:
            self._later("shuffle", self._config.overlay.shuffle_every, now)
            self._later("reunite", self._config.reunite_every, now)
        self._repair_soon(now)

    # filling the view ----------------------------------------------------------------------------

    def _repair(self, now: float) -> None:
        """Ask somebody for a link if one is missing."""
        if self._links.full:
            return  # the next link that goes down starts this again
        # half as many as are missing, since who has no room gives us a place between two; who has
        # no link at all takes no such care
        missing = max(0, self._links.room)  # none while links are being made, which may fail
        most = (missing + 1) // 2 if self._links.up else 2 * missing
        for candidate in self._overlay.candidates(most):
            self._links.request(candidate, now)
        if not self._links.up:
            self._contacts.try_seeds(now)
        self._later("repair", self._repair_delay, now)

    def _repair_soon(self, now: float) -> None:
        self._repair_delay = self._config.repair_every
        if not self._links.full:
            self._timers.set("repair", now + self._jitter(self._repair_delay / 2))

    def _later(self, timer: Timer, delay: float, now: float) -> None:
        self._timers.set(timer, now + self._jitter(delay))

    def _jitter(self, delay: float) -> float:
        return delay * self._rng.uniform(0.75, 1.25)

    # sending -------------------------------------------------------------------------------------

    def _link_to(self, peer: PeerId) -> Link:
        link = self._links.up.get(peer)
        if link is None:
            raise UnknownPeer(f"{peer.short} is not a neighbour")
        return link

    def _suggest(self, most: int) -> tuple[Peer, ...]:
        return self._overlay.some(most)

    def _say(self, to: Peer | Address, message: Message, *, stream: bool = False) -> None:
        self._put(to, TABLE.encode(message), stream=stream)

    def _put(self, to: Peer | Address, data: bytes, *, stream: bool = False) -> None:
        fits = len(data) <= MAX_DATAGRAM and not stream
        peer = to.id if isinstance(to, Peer) else None
        if peer in self._links.up:
            self._links.up[peer].sent += len(data)
        channel = Channel.DATAGRAM if fits else Channel.STREAM
        self._outbox.append(Packet(_address(to), data, channel, peer))


def _address(target: Peer | Address) -> Address:
    return target.address if isinstance(target, Peer) else target


def _claimed(message: Message) -> Peer | None:
    """Who says that it sent this."""
    return message.sender if isinstance(message, Request | Accept | Check) else None


def _plausible(sender: Peer, packet: Packet) -> bool:
    """Whether a request may have come from where its answer will go. Without a handshake anybody
    could have us send answers to a third party."""
    return (
        packet.peer is not None
        or packet.channel is Channel.STREAM
        or packet.address == sender.address
    )
