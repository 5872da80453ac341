"""Algorithms in rounds: after each local round a node waits for what all its neighbours made of it.

The papers let all nodes count rounds together on a fixed graph. Here links come and go, so a node
waits for a message of its own round *or a later one* from each neighbour it has at the moment. Who
waits has said its own to all of them, later neighbours included, so the node that is furthest
behind never waits for ever; and a newcomer, whose first round is far behind, goes on from the
latest round that it hears of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from gossip.codec import CodecConfig, Patch
from gossip.errors import CodecError
from gossip.exchange import SNAPSHOT
from p2p import PeerId
from sims.baselines.algorithm import (
    EXACT,
    MOST_ROUND,
    PATCH,
    RESULT,
    SHARE,
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

Content = TypeVar("Content")  # of what is said, as it is read off the wire

AHEAD = 64  # messages kept of one neighbour; in step, it is at most one round ahead


class AllReduce(Algorithm):
    """The ideal: after each local round everybody holds the mean of all models.

    Everybody sends its model to one node, the leader, which sends everybody the mean: together
    2 (n - 1) vectors a round, as many bytes as a ring all-reduce (Patarasuk, Yuan, "Bandwidth
    optimal all-reduce algorithms", 2009), though not as evenly spread. One node that is down or
    slow holds up all.
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._heard: dict[PeerId, tuple[int, Tensor]] = {}  # at the leader
        self._over: dict[PeerId, int] = {}  # the last round of each that went into a mean
        self._mean = b""

    def trained(self, progress: Tensor) -> None:
        """Tell the leader, and wait."""
        super().trained(progress)
        self.waiting = True
        self.repeat()

    def repeat(self) -> None:
        """The leader may be another one now."""
        if not self.waiting:
            return
        leader = self.directory()[0]
        if leader == self.me:
            self._take(self.me, self.round, self.x)
        else:
            self._say(leader, SHARE, dense(self.x))

    def heard(self, peer: PeerId, word: Word, body: memoryview) -> None:
        """A model for the leader, or the mean from it."""
        (vector,) = read_dense(body, self.x.numel())
        if word.kind == RESULT:
            if self.waiting and word.round == self.round:
                self._adopt(vector)
        elif word.round == self._over.get(peer):
            self._say(peer, RESULT, self._mean, word.round)
        else:
            self._take(peer, word.round, vector)

    def _take(self, peer: PeerId, round_: int, vector: Tensor) -> None:
        self._heard[peer] = round_, vector
        live = self.directory()
        if any(other not in self._heard for other in live):
            return
        mean = torch.stack([self._heard[other][1] for other in live]).mean(dim=0)
        self._mean = dense(mean)
        for other in live:
            number = self._over[other] = self._heard[other][0]
            if other == self.me:
                self._adopt(mean)
            else:
                self._say(other, RESULT, self._mean, number)
        self._heard.clear()

    def _adopt(self, mean: Tensor) -> None:
        self.x.copy_(mean)
        self.merges += 1
        self.waiting = False


@dataclass(frozen=True, slots=True)
class Said(Generic[Content]):
    """What a neighbour said in its round."""

    round: int
    degree: int  # of the neighbour
    content: Content


class Rounds(Algorithm, Generic[Content]):
    """Say something to all neighbours, wait for what they say, mix."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._inbox: dict[PeerId, dict[int, Said[Content]]] = {}
        self._told: dict[PeerId, bytes] = {}  # the last thing, on links that are up

    # what an algorithm of this kind does ---------------------------------------------------------

    def compose(self) -> None:
        """A new round begins; x is what training made of it."""

    def words_for(self, peer: PeerId) -> bytes:
        """What this neighbour gets in this round."""
        raise NotImplementedError

    def read(self, body: memoryview) -> Content:
        """Raises CodecError on a body that makes no sense."""
        raise NotImplementedError

    def mix(self, heard: dict[PeerId, list[Said[Content]]]) -> None:
        """Merge what neighbours said, oldest first; the last of each is of this round or later."""
        raise NotImplementedError

    # rounds --------------------------------------------------------------------------------------

    def trained(self, progress: Tensor) -> None:
        """Tell all neighbours, and wait for them."""
        super().trained(progress)
        self.compose()
        self.waiting = True
        for peer in self.neighbours:
            self._tell(peer)
        self._go_on()

    def heard(self, peer: PeerId, word: Word, body: memoryview) -> None:
        """What a neighbour says; kept until its round has come."""
        kept = self._inbox.get(peer)
        if kept is None or len(kept) >= AHEAD or word.round in kept:
            return  # of a link that is over, or said again
        if word.round > MOST_ROUND:
            raise CodecError(f"nobody has come to round {word.round}")
        kept[word.round] = Said(word.round, word.degree, self.read(body))
        self._go_on()

    def up(self, peer: PeerId) -> None:
        """A new neighbour takes part in the round that we wait in."""
        super().up(peer)
        self._inbox[peer] = {}
        if self.waiting:
            self._tell(peer)

    def down(self, peer: PeerId) -> None:
        """Nobody waits for it any longer."""
        super().down(peer)
        del self._inbox[peer]
        self._told.pop(peer, None)
        self._go_on()

    def repeat(self) -> None:
        """To those from whom nothing has come."""
        for peer in self.neighbours:
            if self.waiting and max(self._inbox[peer], default=-1) < self.round:
                self._say(peer, SHARE, self._told[peer])

    def _tell(self, peer: PeerId) -> None:
        self._told[peer] = self.words_for(peer)
        self._say(peer, SHARE, self._told[peer])

    def _go_on(self) -> None:
        """Mix once all are heard."""
        if not self.waiting:
            return
        heard: dict[PeerId, list[Said[Content]]] = {}
        furthest = self.round
        for peer in self.neighbours:
            kept = self._inbox[peer]
            due = min((number for number in kept if number >= self.round), default=None)
            if due is None:
                return
            furthest = max(furthest, due)
            heard[peer] = [kept[number] for number in sorted(kept) if number <= due]
        self.waiting = False
        if heard:
            self.mix(heard)
            if self.merges == 0:
                self.round = furthest
            self.merges += 1
        for peer, kept in self._inbox.items():
            self._inbox[peer] = {number: kept[number] for number in kept if number >= self.round}


def metropolis(mine: int, theirs: int) -> float:
    """The weight of a link between nodes of these degrees (Xiao, Boyd, "Fast linear iterations for
    distributed averaging", 2004): symmetric, and what a node keeps for itself is never negative."""
    return 1 / (1 + max(mine, theirs))


class DPSGD(Rounds[Tensor]):
    """Decentralised parallel SGD (Lian et al., NeurIPS 2017, algorithm 1): x_i <- sum_j W_ij x_j.

    W has Metropolis weights. The paper mixes x and then adds a gradient taken before; here, as in
    most later work, the local round comes first and its outcome is mixed.
    """

    def words_for(self, peer: PeerId) -> bytes:
        """The model as it is."""
        return dense(self.x)

    def read(self, body: memoryview) -> Tensor:
        """A vector."""
        return read_dense(body, self.x.numel())[0]

    def mix(self, heard: dict[PeerId, list[Said[Tensor]]]) -> None:
        """x_i + sum_j W_ij (x_j - x_i), the same thing."""
        x = self.x.clone()
        for said in heard.values():
            self.x += metropolis(len(heard), said[-1].degree) * (said[-1].content - x)


class Choco(Rounds[tuple[Patch, bool]]):
    """CHOCO-SGD (Koloskova, Stich, Jaggi, ICML 2019, algorithm 2).

        q_i = Q(x_i - x^_i)                     to all neighbours
        x^_j <- x^_j + q_j                      for itself and for each neighbour
        x_i <- x_i + gamma sum_j w_ij (x^_j - x^_i)

    The paper starts from x^ = 0; here the first message of a link is the sender's x^ as a whole (by
    the codec at 8 bits in the first round, in float32 later), which costs bytes once and saves the
    rounds in which x^ would only catch up.

    Args:
        gamma: the consensus step size; has to be tuned for each Q.
        density, bits: of Q, our own compressor.
    """

    def __init__(
        self, place: Place, *, gamma: float = 0.3, density: float = 0.1, bits: int = 3
    ) -> None:
        super().__init__(place)
        self._gamma = gamma
        self._codec = CodecConfig(density=density, bits=bits)
        self._hat: Tensor | None = None  # our x^
        self._hats: dict[PeerId, Tensor] = {}
        self._applied: dict[PeerId, int] = {}  # the last round of each that is in its x^
        self._q = b""

    def compose(self) -> None:
        """q; in the first round, x as a whole."""
        if self._hat is None:
            body, patch = compress(self.x, SNAPSHOT)
            self._q, self._hat = WHOLE + body, patch.dense()
        else:
            body, patch = compress(self.x - self._hat, self._codec)
            self._q = PATCH + body
            patch.add_to(self._hat, 1.0)

    def words_for(self, peer: PeerId) -> bytes:
        """q, or for who does not know x^ all of it."""
        assert self._hat is not None
        known = peer in self._told or self._q[:1] == WHOLE
        return self._q if known else EXACT + dense(self._hat)

    def read(self, body: memoryview) -> tuple[Patch, bool]:
        """A difference, or the whole."""
        return read_patch(body, self.x.numel())

    def down(self, peer: PeerId) -> None:
        """Its x^ is of no use any more."""
        self._hats.pop(peer, None)
        self._applied.pop(peer, None)
        super().down(peer)

    def mix(self, heard: dict[PeerId, list[Said[tuple[Patch, bool]]]]) -> None:
        """Bring each x^_j up to date and take a step towards them."""
        assert self._hat is not None
        moved = torch.zeros_like(self.x)
        for peer, words in heard.items():
            for said in words:
                if said.round > self._applied.get(peer, -1):
                    self._applied[peer] = said.round
                    patch, whole = said.content
                    update(self._hats, peer, patch, whole=whole)
            weight = metropolis(len(heard), words[-1].degree)
            moved += weight * (self._hats[peer] - self._hat)
        self.x += self._gamma * moved
