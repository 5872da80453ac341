"""What may go through an endpoint, and what did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from p2p.courier import CourierConfig
from p2p.packet import MAX_STREAM
from p2p.sessions import SessionConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointConfig:
    """How packets travel, and what strangers and slow peers may cost."""

    transport: Literal["auto", "udp", "tcp"] = "auto"
    """How streams travel. auto: short ones in datagrams to whoever answers by UDP, others by TCP;
    of any length in datagrams while TCP fails and UDP does not. udp: all in datagrams. tcp: all by
    TCP, datagrams too, for networks that block UDP; nothing is sent by UDP. The handshake that
    makes sessions uses TCP always."""

    short_stream: int = 16 << 10
    """Bytes of a stream that goes in datagrams if it can. 15 datagrams take four round trips from
    the smallest window, as many as a connection that has to be made first."""

    give_way: float = 1.0
    """Seconds without an answer until a stream in datagrams goes by TCP instead: two probe timeouts
    in vain, at first. The other end may get it twice, if only its answers were lost."""

    try_again: float = 60.0
    """Seconds after which a way that has failed is tried again: TCP, while UDP works, and UDP for
    short streams. A guess; where nothing answers by TCP, that holds a stream up for `connect`."""

    courier: CourierConfig = field(default_factory=CourierConfig)
    """What streams in datagrams may cost."""

    most_connections: int = 256
    """Inbound connections at a time, and destinations that streams wait for. A guess."""

    most_per_address: int = 16
    """Inbound connections from one IPv4 address or IPv6 /64 network; loopback is exempt. A
    guess."""

    idle: float = 30.0
    """Seconds until an inbound connection must have sent the head of a request. A guess; above
    the 15 s after which aiohttp's client stops using a connection, or requests would be lost."""

    connect: float = 5.0
    """Seconds until a connection must be made; a lost SYN is sent again after 1 s and 3 s."""

    stall: float = 30.0
    """Seconds for which a body may stand still. A guess."""

    slowest: float = 100_000.0
    """Bytes per second that a body must make on average after the first `stall`. A guess."""

    most_waiting: int = 8
    """Streams that wait for one destination. A guess."""

    lane_bytes: int = 64 << 20
    """Bytes that wait for one destination when no further stream is taken. A guess."""

    pending_bytes: int = 2 * MAX_STREAM
    """Bytes of unfinished inbound bodies together, and of outbound streams together."""

    sessions: SessionConfig = field(default_factory=SessionConfig)
    """How datagrams are sealed, if they are."""

    handshake: float = 5.0
    """Seconds that a TLS handshake may take; as many as `connect`. A guess."""

    most_handshakes: int = 64
    """Inbound TLS handshakes at a time; one more breaks off the oldest. Honest ones last some
    round-trips, so only a flood of hundreds a second crowds them out. A guess."""

    handshake_rate: float = 5.0
    """Inbound TLS handshakes a second from one IPv4 address or IPv6 /64 network. A guess; one
    costs each end 1 ms of processor time (benchmarks/endpoint.py)."""

    handshake_burst: int = 20
    """Inbound TLS handshakes from there that may come at once. A guess: one for each node behind
    a shared address, after it has restarted."""

    handshake_rate_all: float = 50.0
    """Inbound TLS handshakes a second from everywhere: 5 % of a processor. A guess."""

    handshake_burst_all: int = 200
    """Inbound TLS handshakes from everywhere that may come at once; as many nodes as may join
    through one contact at the same moment. A guess."""

    exempt_loopback: bool = True
    """Whether handshakes from this machine itself come as often as they like."""

    most_dials: int = 64
    """Peers of whom we ask a session at a time. A guess: twice the passive view."""

    most_unsealed: int = 16
    """Datagrams that wait for a session with one destination; the newest are kept. A guess."""

    redial: float = 0.5
    """Seconds until a destination of whom we asked a session in vain is asked again; doubles. A
    guess."""

    redial_most: float = 8.0
    """Seconds; where that doubling ends. Whoever sends there has a pause of its own."""

    def deadline(self, began: float, now: float, moved: int) -> float:
        """When a body must have made its next step, having moved so many bytes since it began."""
        return min(now, began + moved / self.slowest) + self.stall


@dataclass(slots=True)
class Traffic:
    """Counters of one endpoint since it was made.

    Bytes are those of the packets themselves, datagrams and streams together. Of a stream that
    travels in datagrams, everything in these counts as it leaves and as it comes: what is sent
    again, the heads of fragments, and receipts. Not counted: the headers of IP, UDP, TCP and HTTP,
    seals, what TCP repeats, and the part of a stream that moved by TCP before it broke off.
    """

    bytes_sent: int = 0
    bytes_received: int = 0
    packets_sent: int = 0  # datagrams the kernel took, streams the other end took
    packets_received: int = 0
    dropped_out: int = (
        0  # packets the kernel or the other end did not take, or for which no room was
    )
    dropped_in: int = 0  # datagrams, requests and connections refused, and streams that broke off
    unopened: int = 0  # of these, datagrams that no session of ours opens: strangers, replays
    handshakes: int = 0  # inbound, with members of our network
    handshakes_failed: int = 0  # inbound: of strangers, too slow, broken off, too many

    def sent(self, size: int) -> None:
        """Count a packet out."""
        self.packets_sent += 1
        self.bytes_sent += size

    def received(self, size: int) -> None:
        """Count a packet in."""
        self.packets_received += 1
        self.bytes_received += size
