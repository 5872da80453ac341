"""What a published algorithm is to the simulator: one node's vector, and what is said about it.

An algorithm is sans-IO, like `gossip.exchange`: progress, peers and messages in, messages out. All
of them say the same `Word`, whose body is either a dense vector, four bytes a coordinate, or what
`gossip.codec` makes of a difference; so bytes are counted for all as for our own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from torch import Tensor

from gossip.codec import CodecConfig, Patch, decode, encode
from gossip.errors import CodecError, NotFinite
from p2p import PeerId
from p2p.wire import Table, integer, row

ASK, ANSWER, SHARE, RESULT = range(4)
MOST_DEGREE = 2**16 - 1
MOST_ROUND = 2**48  # that is believed; counting goes on above it


@dataclass(frozen=True, slots=True)
class Word:
    """All that baselines say to one another; the body holds vectors."""

    kind: int  # ASK, ANSWER, SHARE or RESULT
    round: int  # of the sender, where its algorithm has rounds
    degree: int  # of the sender: how many neighbours it has


TABLE: Table[Word] = Table(
    row(1, Word, integer(0, RESULT), integer(0, 2**63 - 1), integer(0, MOST_DEGREE), body=True)
)

Directory = Callable[[], Sequence[PeerId]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where an instance of an algorithm runs."""

    me: PeerId
    x: Tensor  # (n,) float32, the model to start from; the algorithm's own from now on
    rng: Random
    directory: Directory  # everybody who is up; what some papers assume that a node knows


class Algorithm:
    """One node that trains and talks to nobody: isolated training, and what the others build on."""

    def __init__(self, place: Place) -> None:
        self.me = place.me
        self.x = place.x  # what training starts from
        self.rng = place.rng
        self.directory = place.directory
        self.neighbours: list[PeerId] = []  # in the order in which the links came up
        self.merges = 0  # how often others have changed x
        self.waiting = False  # training must not go on
        self.round = 0
        self.outbox: deque[tuple[PeerId, Word, bytes]] = deque()

    def trained(self, progress: Tensor) -> None:
        """A local round has moved the model by `progress`, (n,)."""
        self.round += 1
        self.x += progress

    def heard(self, peer: PeerId, word: Word, body: memoryview) -> None:
        """A peer said something. Raises CodecError on a body that makes no sense."""
        raise CodecError("nobody is expected to speak to a node that trains alone")

    def up(self, peer: PeerId) -> None:
        """There is a link to this peer."""
        self.neighbours.append(peer)

    def down(self, peer: PeerId) -> None:
        """There is no link to this peer any more."""
        self.neighbours.remove(peer)

    def repeat(self) -> None:
        """Nothing has come for a long time: say again what may have been lost."""

    def _say(self, peer: PeerId, kind: int, body: bytes, round_: int | None = None) -> None:
        number = self.round if round_ is None else round_
        self.outbox.append((peer, Word(kind, number, len(self.neighbours)), body))


def dense(*vectors: Tensor) -> bytes:
    """Vectors as plain little-endian float32, what the papers send that do not compress."""
    return b"".join(vector.numpy().astype("<f4").tobytes() for vector in vectors)


def read_dense(body: memoryview, size: int, count: int = 1) -> Tensor:
    """Read them back, (count, size). Raises CodecError."""
    if len(body) != 4 * size * count:
        raise CodecError(f"{len(body)} bytes are not {count} times {size} floats")
    numbers = np.frombuffer(body, "<f4").astype(np.float32)
    if not np.isfinite(numbers).all():
        raise CodecError("a vector holds NaN or infinity")
    return torch.from_numpy(numbers).view(count, size)


PATCH, WHOLE, EXACT = b"\0", b"\1", b"\2"  # how what CHOCO says is to be read


def read_patch(body: memoryview, size: int) -> tuple[Patch, bool]:
    """What CHOCO says: a difference, or a whole vector (True). Raises CodecError."""
    kind, rest = bytes(body[:1]), body[1:]
    if kind == EXACT:
        return Patch(size, None, read_dense(rest, size)[0]), True
    if kind not in (PATCH, WHOLE):
        raise CodecError("neither a difference nor a vector")
    return decode(bytes(rest), size), kind == WHOLE


def update(hats: dict[PeerId, Tensor], peer: PeerId, patch: Patch, *, whole: bool) -> None:
    """Bring what is known of a peer, its x^, up to date."""
    if whole:
        hats[peer] = patch.dense()
    else:
        # who has never said all of it is a liar, whose x^ may as well begin at 0
        patch.add_to(hats.setdefault(peer, torch.zeros(patch.size)), 1.0)


def compress(difference: Tensor, codec: CodecConfig) -> tuple[bytes, Patch]:
    """`gossip.codec.encode`. Raises NotFinite where the algorithm has diverged."""
    if not bool(torch.isfinite(difference).all()):
        raise NotFinite("the model contains NaN or infinity: the algorithm has diverged")
    return encode(difference, codec)
