"""Sealed datagrams: what two peers share once they have exchanged secrets inside TLS.

    datagram = type (1 byte) | receiver's index (4) | counter (8) | ChaCha20-Poly1305 (data + 16)

The header is authenticated with the data. Each direction has a key of its own, and its counter is
the nonce (RFC 8439, 2.8), so no nonce is used twice under a key. Both keys come from fresh random
bytes of both ends, so a session that somebody recorded means nothing to either of them after a
restart. A datagram is accepted once: behind the highest counter so far, a window of 8192 remembers
which were (RFC 4303, 3.4.3; as many as Nebula and WireGuard keep).

Whatever does not open, for whatever reason, is None. Who sent it learns nothing.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from p2p.peer import PeerId

SEALED = 0x01  # the type of the only datagram there is
OVERHEAD = 29  # bytes; 1200 + 29 + UDP 8 + IPv6 40 = 1277, and IPv6 carries 1280 everywhere
WINDOW = 8192  # counters behind the highest that are still accepted
SECRET_SIZE = 32  # bytes

_HEADER = struct.Struct(">BIQ")
_HALF = struct.Struct(f">I{SECRET_SIZE}s")
HALF_SIZE = _HALF.size  # bytes
_SEEN = (1 << WINDOW) - 1
_KEY_SIZE = 32


@dataclass(frozen=True, slots=True)
class Half:
    """What one end gives to a session; it travels inside TLS."""

    index: int  # by which this end recognises the session in a datagram; 4 bytes
    secret: bytes = field(repr=False)

    @classmethod
    def decode(cls, data: bytes) -> Half:
        """Read what `encode` wrote. Raises ValueError."""
        if len(data) != HALF_SIZE:
            raise ValueError(f"half of a session is {HALF_SIZE} bytes, not {len(data)}")
        return cls(*_HALF.unpack(data))

    def encode(self) -> bytes:
        """HALF_SIZE bytes."""
        return _HALF.pack(self.index, self.secret)


class Window:
    """Which of the latest counters were there already."""

    __slots__ = ("_seen", "highest")

    def __init__(self) -> None:
        self.highest = -1
        self._seen = 0  # bit n: `highest - n` was there

    def admits(self, counter: int) -> bool:
        """Whether this counter is new and not too old to tell."""
        behind = self.highest - counter
        return behind < 0 or (behind < WINDOW and not self._seen >> behind & 1)

    def mark(self, counter: int) -> bool:
        """Remember a counter that was admitted; True if it is the highest so far."""
        ahead = counter - self.highest
        if ahead <= 0:
            self._seen |= 1 << -ahead
            return False
        self._seen = (self._seen << ahead | 1) & _SEEN if ahead < WINDOW else 1
        self.highest = counter
        return True


class Opened(NamedTuple):
    """A datagram that was what it says."""

    data: bytes
    newest: bool  # nothing that was sent later has arrived before


class Session:
    """Two keys, and what was sent and received under them.

    Args:
        ours: our half; datagrams to us carry its index.
        theirs: the half of the other end; datagrams to it carry that index.
        initiated: whether we are the end that asked for the session.
    """

    __slots__ = ("_opener", "_sealer", "_theirs", "_window", "index", "initiated", "peer", "sent")

    def __init__(
        self, me: PeerId, ours: Half, peer: PeerId, theirs: Half, *, initiated: bool
    ) -> None:
        self.index = ours.index
        self.peer = peer
        self.initiated = initiated
        self.sent = 0  # the next counter
        self._theirs = theirs.index
        self._window = Window()
        asked, answered = (
            ((me, ours), (peer, theirs)) if initiated else ((peer, theirs), (me, ours))
        )
        keys = _derive(*asked, *answered)
        forth, back = (ChaCha20Poly1305(key) for key in keys)
        self._sealer, self._opener = (forth, back) if initiated else (back, forth)

    def seal(self, data: bytes) -> bytes:
        """The datagram that carries the data to the other end, OVERHEAD bytes longer."""
        counter = self.sent
        header = _HEADER.pack(SEALED, self._theirs, counter)  # fails at 2**64
        self.sent += 1
        return header + self._sealer.encrypt(_nonce(counter), data, header)

    def open(self, datagram: bytes) -> Opened | None:
        """What the other end has sealed, once; None for anything else."""
        counter = _HEADER.unpack_from(datagram)[2]
        if not self._window.admits(counter):
            return None
        header, sealed = datagram[: _HEADER.size], datagram[_HEADER.size :]
        try:
            data = self._opener.decrypt(_nonce(counter), sealed, header)
        except InvalidTag:
            return None
        return Opened(data, self._window.mark(counter))

    def __repr__(self) -> str:
        return f"Session({self.index}, {self.peer.short})"


def index_of(datagram: bytes) -> int | None:
    """Under which index it is to be opened; None for what cannot be a sealed datagram."""
    if len(datagram) < OVERHEAD or datagram[0] != SEALED:
        return None
    index: int = _HEADER.unpack_from(datagram)[1]
    return index


def _derive(asking: PeerId, asked: Half, answering: PeerId, answered: Half) -> tuple[bytes, bytes]:
    """The keys there and back, for these two peers and this session only."""
    info = b"gossip-learning 1 datagrams" + asking + answering
    info += struct.pack(">II", asked.index, answered.index)
    both = HKDF(SHA256(), 2 * _KEY_SIZE, salt=None, info=info).derive(
        asked.secret + answered.secret
    )
    return both[:_KEY_SIZE], both[_KEY_SIZE:]


def _nonce(counter: int) -> bytes:
    return counter.to_bytes(12, "big")
