"""Algorithms in pairs: after a local round a node swaps something with one neighbour, without
waiting.

A node has one question under way at a time. Where two questions cross, they answer each other, as
halves do in `gossip.exchange`; so both ends of a swap see the same two bodies.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import torch
from torch import Tensor

from gossip.codec import CodecConfig, Patch
from gossip.exchange import SNAPSHOT
from p2p import PeerId
from sims.baselines.algorithm import (
    ANSWER,
    ASK,
    PATCH,
    WHOLE,
    Algorithm,
    Place,
    Word,
    compress,
    dense,
    read_dense,
    read_patch,
    update,
)

Side = TypeVar("Side")  # of a swap, as it is read off the wire

PATIENT = 20  # local rounds until an answer is not expected any more: a stream was lost. A guess.


class Pairs(Algorithm, Generic[Side]):
    """Ask a random neighbour after each `every`-th local round; answer whoever asks.

    `offer` makes a body and remembers what `merge` will need of it.
    """

    def __init__(self, place: Place, every: int = 1) -> None:
        super().__init__(place)
        if every < 1:
            raise ValueError(f"every is at least 1 round, not {every}")
        self._every = every
        self._asked: PeerId | None = None
        self._since = 0

    def offer(self, peer: PeerId) -> bytes:
        """Our side of a swap."""
        raise NotImplementedError

    def read(self, body: memoryview) -> Side:
        """Their side. Raises CodecError on a body that makes no sense."""
        raise NotImplementedError

    def merge(self, peer: PeerId, theirs: Side) -> None:
        """Their side has come, and ours is on its way."""
        raise NotImplementedError

    def trained(self, progress: Tensor) -> None:
        """Ask somebody, unless an answer is still to come."""
        super().trained(progress)
        if self.round % self._every or not self.neighbours:
            return
        if self._asked is None or self.round - self._since > PATIENT * self._every:
            self._asked, self._since = self.rng.choice(self.neighbours), self.round
            self._say(self._asked, ASK, self.offer(self._asked))

    def heard(self, peer: PeerId, word: Word, body: memoryview) -> None:
        """A question or an answer."""
        if peer not in self.neighbours or (word.kind == ANSWER and peer != self._asked):
            return  # it came too late
        theirs = self.read(body)
        if peer == self._asked:
            self._asked = None
        else:
            self._say(peer, ANSWER, self.offer(peer))
        self.merge(peer, theirs)
        self.merges += 1

    def down(self, peer: PeerId) -> None:
        """It will not answer."""
        super().down(peer)
        if self._asked == peer:
            self._asked = None


class ADPSGD(Pairs[Tensor]):
    """Asynchronous decentralised parallel SGD (Lian et al., ICML 2018): two models become their
    mean, whole and in float32, while training goes on.

    The paper lets half of the nodes only ask and the others only answer, lest they wait for each
    other in a circle; nobody waits here. Progress made while an answer is on its way is kept:

        x_i <- x_i + (x_j - what i sent) / 2

    Args:
        every: local rounds between two questions.
    """

    def __init__(self, place: Place, *, every: int = 1) -> None:
        super().__init__(place, every)
        self._sent: dict[PeerId, Tensor] = {}

    def offer(self, peer: PeerId) -> bytes:
        """The model as it is."""
        self._sent[peer] = self.x.clone()
        return dense(self.x)

    def read(self, body: memoryview) -> Tensor:
        """A vector."""
        return read_dense(body, self.x.numel())[0]

    def merge(self, peer: PeerId, theirs: Tensor) -> None:
        """Half the difference."""
        self.x += (theirs - self._sent.pop(peer)) / 2


class EdgeChoco(Pairs[tuple[Patch, bool]]):
    """CHOCO in pairs: on each link both ends keep what each knows of the other, x^_i and x^_j.

        q_i = Q(x_i - x^_i), x^_i <- x^_i + q_i, x_i <- x_i + gamma (x^_j - x^_i); j likewise

    It is the strongest form of CHOCO that we know: no round, no waiting, bytes for one neighbour at
    a time, at the price of two vectors a link. (AD-PSGD's pairs with the update of Koloskova,
    Stich, Jaggi, ICML 2019.) The first swap on a link is of whole models at 8 bits.

    Args:
        gamma: the consensus step size, 1/2 for an exact Q; has to be tuned for each Q.
        density, bits: of Q, our own compressor.
        every: local rounds between two questions.
    """

    def __init__(
        self,
        place: Place,
        *,
        gamma: float = 0.4,
        density: float = 0.1,
        bits: int = 3,
        every: int = 1,
    ) -> None:
        super().__init__(place, every)
        self._gamma = gamma
        self._codec = CodecConfig(density=density, bits=bits)
        self._mine: dict[PeerId, Tensor] = {}
        self._theirs: dict[PeerId, Tensor] = {}

    def up(self, peer: PeerId) -> None:
        """A new link knows nothing."""
        super().up(peer)
        self._mine.pop(peer, None)
        self._theirs.pop(peer, None)

    def offer(self, peer: PeerId) -> bytes:
        """q_i; the first time, x_i as a whole."""
        if peer not in self._mine:
            body, patch = compress(self.x, SNAPSHOT)
            self._mine[peer] = patch.dense()
            return WHOLE + body
        body, patch = compress(self.x - self._mine[peer], self._codec)
        patch.add_to(self._mine[peer], 1.0)
        return PATCH + body

    def read(self, body: memoryview) -> tuple[Patch, bool]:
        """A difference, or the whole."""
        return read_patch(body, self.x.numel())

    def merge(self, peer: PeerId, theirs: tuple[Patch, bool]) -> None:
        """Bring x^_j up to date and take a step towards it."""
        patch, whole = theirs
        update(self._theirs, peer, patch, whole=whole)
        self.x += self._gamma * (self._theirs[peer] - self._mine[peer])


class NoLoCo(Pairs[Tensor]):
    """Local steps with an outer optimizer, in pairs (Kolehmainen et al., "NoLoCo", 2025, sec. 3).

    After `every` local rounds from phi to theta, a node swaps (Delta, phi), Delta = theta - phi,
    with one other and takes a Nesterov-like outer step with the means over the two:

        delta <- alpha delta + beta mean(Delta) - gamma (phi - mean(phi)),  phi <- phi + delta

    The paper draws disjoint pairs in step; here the neighbour that is asked takes an outer step as
    well, with what it has of its Delta, so it takes about two of them in `every` rounds. Vectors
    are dense float32; SparseLoCo (Sarfi et al., 2025) would compress Delta besides.

    Args:
        every: local rounds between two questions, H. The paper has 50 steps of much larger models.
        alpha, beta: momentum and learning rate of the outer step, from the paper.
        gamma: pull towards the other's phi; between alpha and sqrt(2 + alpha^2) in pairs.
    """

    def __init__(
        self,
        place: Place,
        *,
        every: int = 10,
        alpha: float = 0.5,
        beta: float = 0.7,
        gamma: float = 1.0,
    ) -> None:
        super().__init__(place, every)
        self._alpha, self._beta, self._gamma = alpha, beta, gamma
        self._phi = self.x.clone()
        self._delta = torch.zeros_like(self.x)
        self._sent: dict[PeerId, tuple[Tensor, Tensor]] = {}

    def offer(self, peer: PeerId) -> bytes:
        """Delta and phi."""
        self._sent[peer] = self.x - self._phi, self._phi.clone()
        return dense(*self._sent[peer])

    def read(self, body: memoryview) -> Tensor:
        """Two vectors, (2, n)."""
        return read_dense(body, self.x.numel(), 2)

    def merge(self, peer: PeerId, theirs: Tensor) -> None:
        """An outer step; what training has added to x since our side was sent stays on top."""
        progress, phi = theirs
        our_progress, our_phi = self._sent.pop(peer)
        self._delta *= self._alpha
        self._delta += self._beta / 2 * (progress + our_progress)
        self._delta -= self._gamma / 2 * (our_phi - phi)
        moved = self._delta - our_progress
        self.x += moved
        self._phi += self._delta
