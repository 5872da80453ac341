"""The network: peers that find each other, keep a few neighbours, and carry bytes between them."""

from p2p.conduct import Conduct, ConductConfig
from p2p.errors import (
    IdentityError,
    InvitationError,
    P2PError,
    PortInUse,
    UnknownMessage,
    UnknownPeer,
    WireError,
)
from p2p.events import (
    PacketRejected,
    PayloadReceived,
    PeerBanned,
    PeerDown,
    PeerGraylisted,
    PeerUp,
    RecordRejected,
    SeedUnreachable,
    SwarmEvent,
)
from p2p.link import LinkConfig
from p2p.liveness import LivenessConfig
from p2p.machine import Machine
from p2p.overlay import OverlayConfig
from p2p.packet import MAX_DATAGRAM, MAX_STREAM, Channel, Packet
from p2p.peer import Address, Peer, PeerId
from p2p.record import Record
from p2p.roster import RosterConfig
from p2p.rtt import RoundTrip
from p2p.swarm import Swarm, SwarmConfig
from p2p.timers import Timers

__all__ = [
    "MAX_DATAGRAM",
    "MAX_STREAM",
    "Address",
    "Channel",
    "Conduct",
    "ConductConfig",
    "IdentityError",
    "InvitationError",
    "LinkConfig",
    "LivenessConfig",
    "Machine",
    "OverlayConfig",
    "P2PError",
    "Packet",
    "PacketRejected",
    "PayloadReceived",
    "Peer",
    "PeerBanned",
    "PeerDown",
    "PeerGraylisted",
    "PeerId",
    "PeerUp",
    "PortInUse",
    "Record",
    "RecordRejected",
    "RosterConfig",
    "RoundTrip",
    "SeedUnreachable",
    "Swarm",
    "SwarmConfig",
    "SwarmEvent",
    "Timers",
    "UnknownMessage",
    "UnknownPeer",
    "WireError",
]
