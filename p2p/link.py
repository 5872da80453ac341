"""One end of a link."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from p2p.packet import Channel
from p2p.peer import Address, Peer, PeerId
from p2p.rtt import RoundTrip


class State(Enum):
    """How far a link has got."""

    REQUESTED = "requested"
    ACCEPTED = "accepted"
    UP = "up"


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
    wanting: bool = False  # for that other one as well
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
