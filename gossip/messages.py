"""What two agents say to each other on a link, and how it is read off the wire.

These messages travel as payloads of the swarm, which has told us already who is speaking. Vectors
are bodies: they follow the header as they are and never enter msgpack.

A link is named by two random numbers, one drawn by each end: its epoch. `source` is the sender's
and `target` the one it believes to be the receiver's (0: not known yet). Halves, of which there are
many, name the epoch by four bytes of a hash.
"""

from __future__ import annotations

from dataclasses import dataclass

from p2p.wire import Table, binary, boolean, integer, optional, row, sequence

NONCE = integer(0, 2**64 - 1)
MOST_SAMPLES = 2**48  # that a model can have seen; counting stops there
EPOCH = integer(0, 2**32 - 1)
COUNT = integer(0, 2**63 - 1)
SAMPLES = integer(0, MOST_SAMPLES)
MOST_ATTEMPTS = 127  # that are told apart; one byte
ATTEMPT = integer(0, MOST_ATTEMPTS)
MOST_REST = 24 * 3600  # seconds
HASH_SIZE = 32  # bytes; SHA-256
DIGEST_SIZE = 8  # bytes of SHA-256: a mismatch that hides has probability 2**-64
DIGEST = binary(DIGEST_SIZE, exact=True)


@dataclass(frozen=True, slots=True)
class Open:
    """Let us have a link. Everything but `target` and `answer` is fixed once `source` is drawn."""

    source: int
    target: int
    answer: bool  # the sender has not got the receiver's Open yet and wants it
    layout: bytes  # (32,) hash of the model's layout
    samples: int  # how many samples the sender's model had seen
    past: tuple[int, ...]  # the last link's two numbers and its completed exchanges, or nothing
    origin: bytes | None = None  # (8,) hash of the sender's model while it has seen no sample


@dataclass(frozen=True, slots=True)
class Challenge:
    """You speak of a link that I do not know; if you mean it, repeat my number in an Open."""

    source: int
    target: int  # the number or the epoch that the sender does not know


@dataclass(frozen=True, slots=True)
class Half:
    """One half of exchange `n`; the body is the compressed difference."""

    epoch: int  # 4 bytes of a hash of both numbers
    n: int
    answer: bool  # the sender has completed n and wants nothing back
    digest: bytes | None  # (8,) hash of the reference before this exchange, now and then
    attempt: int = 0  # how often this was sent before; in an answer, which of them it answers


@dataclass(frozen=True, slots=True)
class Describe:
    """Our models differ; the body is the sender's layout."""


@dataclass(frozen=True, slots=True)
class Rest:
    """I exchange nothing for so many seconds; better not send me anything. 0: from now on I do."""

    seconds: int


Message = Open | Challenge | Half | Describe | Rest

TABLE: Table[Message] = Table(
    row(
        1,
        Open,
        NONCE,
        NONCE,
        boolean,
        binary(HASH_SIZE, exact=True),
        SAMPLES,
        sequence(NONCE, 3),
        optional(DIGEST),
    ),
    row(2, Challenge, NONCE, NONCE),
    row(3, Half, EPOCH, COUNT, boolean, optional(DIGEST), ATTEMPT, body=True),
    row(4, Describe, body=True),
    row(5, Rest, integer(0, MOST_REST)),
)
