"""A roster record: what a peer says about itself, signed with the key that is its id.

    signature of 64 bytes, [1, field, field, ...]

The signature covers a constant that nothing else signed by that key begins with, then the array to
the byte, so that fields which a newer version appended travel through older ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from p2p.errors import WireError
from p2p.peer import Peer, PeerId
from p2p.wire import (
    Table,
    binary,
    boolean,
    integer,
    number,
    pair,
    peer,
    row,
    sequence,
    text,
)

Sign = Callable[[bytes], bytes]
Verify = Callable[[PeerId, bytes, bytes], bool]  # whether that peer gave that signature to the data

MAX_RECORD = 512  # bytes; the largest that we make takes 444
PREFIX = 8  # bytes of an id that stand for it; finding another key for them takes 2^64 attempts
NAME = 32  # bytes
METRICS = 6
METRIC = 16  # bytes of its name
NEIGHBOURS = 8
SIGNATURE = 64
DOMAIN = b"gossip-learning roster record\n"


@dataclass(frozen=True, slots=True)
class Record:
    """One peer, as it describes itself."""

    peer: Peer
    sequence: int  # rises with every record of this peer, across restarts too
    name: str  # for people; not unique
    samples: int  # that its model has seen
    metrics: tuple[tuple[str, float], ...]
    neighbours: tuple[bytes, ...]  # prefixes of their ids
    left: bool  # it has said goodbye


COUNT = integer(0, 2**63 - 1)

TABLE: Table[Record] = Table(
    row(
        1,
        Record,
        peer,
        COUNT,
        text(NAME),
        COUNT,
        sequence(pair(text(METRIC), number), METRICS),
        sequence(binary(PREFIX, exact=True), NEIGHBOURS),
        boolean,
    )
)


def prefix(peer_id: PeerId) -> bytes:
    """What stands for an id where space is short."""
    return peer_id[:PREFIX]


def seal(record: Record, sign: Sign) -> bytes:
    """A record as it travels."""
    body = TABLE.encode(record)
    return sign(DOMAIN + body) + body


def read(data: bytes) -> Record:
    """A record whose signature has not been checked. Raises only WireError."""
    if len(data) > MAX_RECORD:
        raise WireError(f"a record of {len(data)} bytes is above {MAX_RECORD}")
    return TABLE.decode(data[SIGNATURE:])[0]


@lru_cache(2048)
def shared(data: bytes) -> tuple[Record, bytes]:
    """What `read` makes of it, and the bytes: the same objects for the same bytes, since every
    neighbour sends a record, and every node of a simulation holds it."""
    return read(data), data


def genuine(record: Record, data: bytes, verify: Verify) -> bool:
    """Whether the peer in `record`, which was read from `data`, has signed it."""
    return verify(record.peer.id, data[:SIGNATURE], DOMAIN + data[SIGNATURE:])


def fitting(label: str, size: int) -> str:
    """A text that a record can hold: what cannot be printed is left out, the end cut off."""
    printable = "".join(letter for letter in label if letter.isprintable())
    return printable.encode()[:size].decode(errors="ignore")
