"""Algorithms that push: a node sends its model after a local round and expects nothing back."""

from __future__ import annotations

from random import Random
from struct import pack, unpack

import torch
from torch import Tensor

from gossip.errors import CodecError
from p2p import PeerId
from sims.baselines.algorithm import SHARE, Algorithm, Place, Word, dense, read_dense


class ELLocal(Algorithm):
    """Epidemic learning, EL-Local (de Vos et al., NeurIPS 2023, algorithm 1): each node sends its
    model to `s` nodes drawn from all, and goes on from the mean of its own and those that came.

    The paper's rounds are in step; here what has come by the end of a local round is merged then.

    Args:
        s: how many get the model; 2 make as many bytes as AD-PSGD.
    """

    def __init__(self, place: Place, *, s: int = 2) -> None:
        super().__init__(place)
        if s < 1:
            raise ValueError(f"s is at least 1 node, not {s}")
        self._s = s
        self._heard: dict[PeerId, Tensor] = {}  # the latest of each

    def targets(self, live: list[PeerId]) -> list[PeerId]:
        """Who gets the model of this round."""
        others = [peer for peer in live if peer != self.me]
        return self.rng.sample(others, min(self._s, len(others)))

    def trained(self, progress: Tensor) -> None:
        """Push, then merge."""
        super().trained(progress)
        body = dense(self.x)
        for peer in self.targets(list(self.directory())):
            self._say(peer, SHARE, body)
        if self._heard:
            self.x.copy_(torch.stack([self.x, *self._heard.values()]).mean(dim=0))
            self._heard.clear()
            self.merges += 1

    def heard(self, peer: PeerId, word: Word, body: memoryview) -> None:
        """A model, for the end of the local round."""
        self._heard[peer] = read_dense(body, self.x.numel())[0]


class ELOracle(ELLocal):
    """Epidemic learning, EL-Oracle (the same, algorithm 2): in each round the targets are a random
    regular graph, so that everybody also receives `s` models.

    The oracle is a generator that all nodes seed with the number of their round: `s` cyclic shifts
    of one random order.
    """

    def targets(self, live: list[PeerId]) -> list[PeerId]:
        """The successors at `s` distances."""
        rng = Random(f"oracle {self.round}")
        order = rng.sample(live, len(live))
        shifts = rng.sample(range(1, len(order)), min(self._s, len(order) - 1))
        at = order.index(self.me)
        return [order[(at + shift) % len(order)] for shift in shifts]


class PushSum(Algorithm):
    """Stochastic gradient push (Assran et al., ICML 2019, algorithm 1; overlap SGP).

    A node keeps half of its numerator u and of its weight w and sends the other half to one
    neighbour; it trains at z = u / w, and its progress is added to u. Nobody has to answer, and the
    mean survives, because w is diluted as u is.
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._u = self.x.clone()
        self._w = 1.0

    def trained(self, progress: Tensor) -> None:
        """Push a half to a random neighbour."""
        self.round += 1
        self._u += progress
        if self.neighbours:
            self._u /= 2
            self._w /= 2
            self._say(self.rng.choice(self.neighbours), SHARE, pack("<d", self._w) + dense(self._u))
        self.x = self._u / self._w

    def heard(self, peer: PeerId, word: Word, body: memoryview) -> None:
        """The half of somebody else."""
        (u,) = read_dense(body[8:], self.x.numel())
        (w,) = unpack("<d", body[:8])
        if not 0 < w < 2.0**32:
            raise CodecError(f"a weight of {w} is none")
        self._u += u
        self._w += w
        self.x = self._u / self._w
        self.merges += 1
