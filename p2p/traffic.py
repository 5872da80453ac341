"""What may go through an endpoint, and what did."""

from __future__ import annotations

from dataclasses import dataclass

from p2p.packet import MAX_STREAM


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointConfig:
    """What strangers and slow peers may cost."""

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

    def deadline(self, began: float, now: float, moved: int) -> float:
        """When a body must have made its next step, having moved so many bytes since it began."""
        return min(now, began + moved / self.slowest) + self.stall


@dataclass(slots=True)
class Traffic:
    """Counters of one endpoint since it was made.

    Bytes are those of the packets themselves, datagrams and streams together. Not counted: the
    headers of IP, UDP, TCP and HTTP, what TCP repeats, and the part of a stream that moved before
    it broke off.
    """

    bytes_sent: int = 0
    bytes_received: int = 0
    packets_sent: int = 0  # datagrams the kernel took, streams the other end took
    packets_received: int = 0
    dropped_out: int = (
        0  # packets the kernel or the other end did not take, or for which no room was
    )
    dropped_in: int = 0  # datagrams, requests and connections refused, and streams that broke off

    def sent(self, size: int) -> None:
        """Count a packet out."""
        self.packets_sent += 1
        self.bytes_sent += size

    def received(self, size: int) -> None:
        """Count a packet in."""
        self.packets_received += 1
        self.bytes_received += size
