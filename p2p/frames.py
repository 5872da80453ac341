"""The datagrams of a courier: pieces of streams, and what says that they arrived.

    fragment  mark (1) | kind (1) | flow (8) | number (8) | transfer (8) | size (4) | place (4)
              | clock (4) | data
    receipt   mark (1) | kind (1) | flow (8) | newest (8) | delay (4) | offset (4) | seen (32)

All integers are big-endian. The mark is 0xc1, the one byte with which nothing in msgpack begins,
so a frame is told from a packet by its first byte. A flow is one direction between two peers; its
id is random, and drawn anew by whoever restarts. Every datagram of a flow has a number of its own,
a repeated fragment too, so a receipt says which copy arrived (as in QUIC; RFC 9000, section 13).
All fragments of a transfer but the last hold FRAGMENT bytes, so its place says where it belongs.

`clock` is the sender's time in microseconds, `offset` the receiver's less that, of the datagram
`newest`; both modulo 2**32, and no more than their changes mean anything (RFC 6817, section 2).
`delay` is how many microseconds ago that one arrived. Bit n of `seen`: `newest - n` arrived.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from p2p.packet import MAX_DATAGRAM

MARK = 0xC1
SEEN = 256  # datagrams a receipt speaks of
KEEP_BACK = 0.02  # seconds that a receipt waits for more to speak of, at most

_PLAIN, _PROMPT, _RECEIPT = 1, 2, 3
_FRAGMENT = struct.Struct(">BBQQQIII")
_RECEIPT_HEAD = struct.Struct(f">BBQQII{SEEN // 8}s")
_SEEN_MASK = (1 << SEEN) - 1
_CLOCK = 1 << 32
FRAGMENT = MAX_DATAGRAM - _FRAGMENT.size  # bytes


class Fragment(NamedTuple):
    """A piece of a stream."""

    flow: int
    number: int
    transfer: int  # which stream of the flow; rises by one
    size: int  # bytes of the whole stream
    place: int  # which piece of it
    clock: int
    prompt: bool  # the sender waits for the receipt
    data: bytes

    def encode(self) -> bytes:
        """At most MAX_DATAGRAM bytes."""
        kind = _PROMPT if self.prompt else _PLAIN
        head = _FRAGMENT.pack(
            MARK, kind, self.flow, self.number, self.transfer, self.size, self.place, self.clock
        )
        return head + self.data


class Receipt(NamedTuple):
    """Which datagrams of a flow arrived."""

    flow: int
    newest: int
    delay: int
    offset: int
    seen: int

    def encode(self) -> bytes:
        """58 bytes: fewer than any fragment that is worth sending."""
        seen = (self.seen & _SEEN_MASK).to_bytes(SEEN // 8, "big")
        return _RECEIPT_HEAD.pack(
            MARK, _RECEIPT, self.flow, self.newest, self.delay, self.offset, seen
        )


def is_frame(data: bytes) -> bool:
    """Whether it is for a courier; otherwise it is a packet."""
    return data[:1] == b"\xc1"


def decode(data: bytes) -> Fragment | Receipt | None:
    """Read what `encode` wrote; None for anything else."""
    kind = data[1] if len(data) > 1 and data[0] == MARK else 0
    if kind == _RECEIPT and len(data) == _RECEIPT_HEAD.size:
        _, _, flow, newest, delay, offset, seen = _RECEIPT_HEAD.unpack(data)
        return Receipt(flow, newest, delay, offset, int.from_bytes(seen, "big"))
    if kind not in (_PLAIN, _PROMPT) or len(data) < _FRAGMENT.size:
        return None
    _, _, flow, number, transfer, size, place, clock = _FRAGMENT.unpack_from(data)
    piece = data[_FRAGMENT.size :]
    if place >= pieces(size) or len(piece) != min(FRAGMENT, size - place * FRAGMENT):
        return None
    return Fragment(flow, number, transfer, size, place, clock, kind == _PROMPT, piece)


def pieces(size: int) -> int:
    """How many fragments a stream of that many bytes makes; an empty one makes one."""
    return max(1, -(-size // FRAGMENT))


def ticks(seconds: float) -> int:
    """A time as a frame carries it."""
    return int(seconds * 1e6) % _CLOCK


def change(later: int, earlier: int) -> float:
    """Seconds by which a time that a frame carries has grown; less than 0 if it shrank."""
    return ((later - earlier + _CLOCK // 2) % _CLOCK - _CLOCK // 2) / 1e6
