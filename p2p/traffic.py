"""What went through an endpoint."""

from __future__ import annotations

from dataclasses import dataclass


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
