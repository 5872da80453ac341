"""One end of a link, how it is made, and what may happen to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from p2p.packet import Channel, Source
from p2p.peer import Address, Peer, PeerId
from p2p.rtt import RoundTrip


class State(Enum):
    """How far a link has got."""

    REQUESTED = "requested"
    ACCEPTED = "accepted"
    UP = "up"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkConfig:
    """How links are made and watched."""

    most: int = 5
    """Links at a time; HyParView's active view for 10,000 peers (section 5)."""

    request_timeout: float = 0.5
    """Seconds until a request is repeated, twice as long each time. As in iroh-gossip, there a
    "wild guess"."""

    request_attempts: int = 4
    """Requests until a peer counts as gone: 7.5 s in all. A guess: who is farther away than that is
    no neighbour."""

    split_every: float = 60.0
    """Seconds in which one peer can make us split a link once. A guess."""

    ours: int = 2
    """Links with peers that we chose which nobody can push out (`p2p.diversity`)."""

    most_in_network: int = 2
    """Links with peers of one public IPv4 /24 or IPv6 /48."""

    lan: bool = False
    """Whether everybody lives on one network anyway, so that this limit makes no sense."""

    splits: float = 1.0
    """Links a second that all peers together can make us split; five at once. So nobody can take
    us over by asking under ever new names. A guess."""


@dataclass(slots=True)
class Watch:
    """What we know about whether the other end lives; see `p2p.liveness`."""

    heard: float = 0.0
    probe: int = 0  # number of the one under way; 0: none
    started: float = 0.0  # when it was
    ping: tuple[int, float] = (0, 0.0)  # number and time of the last one that was not over TCP
    pings: int = 0  # so far, those over TCP left out
    pongs: int = 0  # that came in time
    due: float = 0.0  # when it goes on
    asked: bool = False  # whether others help with it
    silent_helpers: int = 0  # of those, who have not answered
    suspected: float | None = None  # since when; None: not at all
    witnesses: dict[PeerId, None] = field(default_factory=dict)  # could not reach it either

    @property
    def loss(self) -> float:
        """The share of pings that were not answered in time; one under way does not count."""
        over = self.pings - (self.ping[0] != 0)
        return 1 - self.pongs / over if over else 0.0


@dataclass(slots=True)
class Link:
    """A link that is up, or on its way to be."""

    address: Address
    peer: Peer | None  # None: a seed that has not said who it is
    state: State
    mine: int  # what the other end must say
    theirs: int = 0  # what we must say; unknown while REQUESTED
    joining: bool = False
    extra: bool = False  # made without room: if it comes up, another one makes way
    gives_way: PeerId | None = None  # that other one, if we asked
    instead: Peer | None = None  # whom that other one shall ask for a link, if we were asked
    ours: bool = False  # we chose the peer, or took it for one that we chose and that made way
    wanted: bool = False  # the peer chose us
    attempts: int = 0
    asked: tuple[int, int] = (0, 0)  # incarnation and number of the peer's request
    round_trip: RoundTrip = field(default_factory=RoundTrip)
    watch: Watch = field(default_factory=Watch)
    channel: Channel = Channel.DATAGRAM  # on which the last ping was answered
    sent: int = 0  # bytes of packets on this link
    received: int = 0

    @property
    def to(self) -> Peer | Address:
        """Whom to send to: nobody else may get it, once we know who it is."""
        return self.peer or self.address


@dataclass(frozen=True, slots=True)
class LinkUp:
    """Both ends have confirmed."""

    link: Link
    joined: bool  # the peer is new to the network


@dataclass(frozen=True, slots=True)
class LinkDown:
    """A link that was up is no more."""

    peer: Peer
    reason: str
    reachable: bool  # worth asking again some day
    instead: Peer | None = None  # who wants us as a neighbour in its place
    ours: bool = False  # it was our choice


@dataclass(frozen=True, slots=True)
class RequestRefused:
    """Somebody answers there, but has no room, or is ourselves."""

    address: Address
    peers: tuple[Peer, ...]
    source: Source  # who told us of these


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """Nobody answers there, or somebody else."""

    address: Address
    peer: Peer | None


LinkEvent = LinkUp | LinkDown | RequestRefused | RequestFailed
