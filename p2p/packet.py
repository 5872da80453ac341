"""Bytes on their way to or from a peer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from p2p.peer import Address, PeerId

MAX_DATAGRAM = 1200  # bytes; the IPv6 minimum MTU of 1280 less headers and room for sealing
MAX_STREAM = 256 << 20  # bytes; an 8-bit snapshot of 256 M parameters


class Channel(Enum):
    """How a packet travels."""

    DATAGRAM = "datagram"  # best effort, at most MAX_DATAGRAM bytes: UDP
    STREAM = "stream"  # reliable while both live, at most MAX_STREAM bytes: TCP, or in datagrams


Source = PeerId | Address  # a peer that has proven who it is, else where its bytes come from


@dataclass(frozen=True, slots=True)
class Packet:
    """One message in its encoded form.

    Outbound, `address` is the destination; inbound, it is where the bytes came from. The port of
    an inbound stream means nothing (TCP picks it), so whoever answers uses the sender that the
    message itself names.

    Inbound, `peer` is who sent it, proven by the handshake; None where there was none (nodes on
    loopback without a network key, simulations). Outbound, it is for whom this is, and nobody else
    may get it; None: whoever listens there.
    """

    address: Address
    data: bytes
    channel: Channel
    peer: PeerId | None = None

    @property
    def source(self) -> Source:
        """Inbound, what tells its sender from others."""
        return self.peer or self.address
