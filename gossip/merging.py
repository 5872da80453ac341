"""HEAD"""

from __future__ import annotations

from math import inf, sqrt
from statistics import median_low
from typing import Literal

import torch
from torch import Tensor

from gossip.codec import Patch
from gossip.density import Motion
from gossip.trust import Trust
from p2p import PeerId

Merge = Literal["mean", "clipped", "trimmed"]

MEDIAN = 2.0  # a guess
PROGRESS = 2.0  # a guess that keeps digits, IID, at 0.98 under "a little is enough"
MAJORITY = 3  # links, of which one liar is a minority


class Guard:
    """Decides for all links of one agent.

    `clipped` counts the exchanges of which less than all was merged.
    """

    def __init__(self, merge: Merge, motion: Motion) -> None:
        self.clipped = 0
        self.trust = Trust()
        self._merge = merge
        self._motion = motion
        self._lengths: dict[PeerId, float] = {}  # the latest of each link
        self._moves: dict[PeerId, Tensor] = {}  # the latest of each link in each coordinate

    @property
    def asks(self) -> bool:
        """Whether `trust` counts, so that neighbours should be looked at."""
        return self._merge != "mean"

    def merge(self, peer: PeerId, mine: Patch, theirs: Patch, x: Tensor) -> float:
        """Move (n,) `x` by as much of an exchange with the peer as is wise.

        Returns that share, 0 to 1, for who takes the exchange back; 0 where it was no share of it.
        """
        scale = 1.0 if self._merge == "mean" else self._scale(peer, mine, theirs)
        if self._merge == "trimmed":
            self._trim(peer, mine, theirs, 0.5 * scale, x)
            return 0.0
        theirs.add_to(x, 0.5 * scale)
        mine.add_to(x, -0.5 * scale)
        return scale

    def forget(self, peer: PeerId) -> None:
        """The link with the peer is down."""
        self.trust.forget(peer)
        self._lengths.pop(peer, None)
        self._moves.pop(peer, None)

    def _scale(self, peer: PeerId, mine: Patch, theirs: Patch) -> float:
        length = (_norm(mine) + _norm(theirs)) / 2
        self._lengths[peer] = length
        scale = min(1.0, self._radius() / length) if length else 1.0
        scale *= self.trust.of(peer)
        self.clipped += scale < 1
        return scale

    def _radius(self) -> float:
        radius = PROGRESS * sqrt(self._motion.squared) if self._motion.squared else inf
        if len(self._lengths) >= MAJORITY:
            radius = min(radius, MEDIAN * median_low(self._lengths.values()))
        return radius

    def _trim(self, peer: PeerId, mine: Patch, theirs: Patch, weight: float, x: Tensor) -> None:
        move = torch.zeros_like(x)
        theirs.add_to(move, weight)
        mine.add_to(move, -weight)
        at = move.nonzero().view(-1)
        asked = move[at]
        self._moves.setdefault(peer, torch.zeros_like(x))[at] = asked
        still = torch.zeros_like(asked)
        ranked = torch.stack([still, *(each[at] for each in self._moves.values())]).sort(dim=0)
        drop = len(self._moves) // MAJORITY
        x[at] += asked.clamp(ranked.values[drop], ranked.values[-1 - drop])


def _norm(patch: Patch) -> float:
    return float(patch.values.double().norm())  # squares of 1e30 are no float32
