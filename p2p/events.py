"""What a swarm tells the layer above."""

from __future__ import annotations

from dataclasses import dataclass

from p2p.peer import Address, Peer, PeerId


@dataclass(frozen=True, slots=True)
class PeerUp:
    """The peer is a neighbour now: both ends have confirmed the link."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class PeerDown:
    """The peer is no neighbour any more; it may come back, with a `PeerUp`."""

    peer: Peer
    reason: str


@dataclass(frozen=True, slots=True)
class PayloadReceived:
    """A neighbour sent bytes for the layer above."""

    peer: Peer
    payload: memoryview


@dataclass(frozen=True, slots=True)
class PacketRejected:
    """Bytes that made no sense were dropped; nothing has changed."""

    address: Address
    reason: str


@dataclass(frozen=True, slots=True)
class RecordRejected:
    """A neighbour sent a roster record that nobody has signed, or that makes no sense. Whoever is
    honest passes on only what it has checked."""

    peer: Peer
    reason: str


@dataclass(frozen=True, slots=True)
class SeedUnreachable:
    """A seed does not answer; the swarm keeps trying."""

    address: Address
    attempts: int


@dataclass(frozen=True, slots=True)
class PeerGraylisted:
    """A peer has sent what no honest peer sends, and then again: it gets no link for a while."""

    peer: PeerId
    reason: str  # the latest


@dataclass(frozen=True, slots=True)
class PeerBanned:
    """A graylisted peer went on; nothing is taken from it any more."""

    peer: PeerId
    seconds: float  # for how long
    reason: str


SwarmEvent = (
    PeerUp
    | PeerDown
    | PayloadReceived
    | PacketRejected
    | RecordRejected
    | SeedUnreachable
    | PeerGraylisted
    | PeerBanned
)
