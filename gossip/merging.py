"""How much of an exchange goes into `x`, where some of the neighbours may lie.

An exchange moves `x` by `(q_theirs - q_mine) / 2` and the reference by its own halves. That one is
public and must stay equal at both ends, so it always moves in full; what goes into `x` is ours:

    mean     all of it: who lies can move `x` as far as floats go
    clipped  s times it, s = min(1, radius / length), length = (|q_theirs| + |q_mine|) / 2

`length` is never less than what the exchange would move, and costs no union of two index sets. So
no exchange moves `x` by more than the radius, which is the smaller of

    MEDIAN * the median, over the links, of the latest length
    PROGRESS * the length of our own progress between two syncs, on average

Sources. To clip the difference to a neighbour about one's own model: He, Karimireddy, Jaggi,
"Byzantine-robust decentralized learning via ClippedGossip" (2022); its radius needs the variance of
the honest, which nobody knows. "Learning from history for Byzantine robust optimization"
(Karimireddy, He, Jaggi, ICML 2021) centres on what went before. Here that is our own progress: who
learns as we do has no reason to move us further than a few times as far as we move ourselves, and
no liar, and no majority of liars, says how far that is.

Limits. A median holds while fewer than half of the links lie, so it asks for `MAJORITY` of them;
with one or two, only our own progress bounds a liar. Before the first progress there is no such
bound, and a node that makes none, which only averages, never has it. Each end clips by its own
radius, so an exchange in which one of them clips moves the mean of all models.

Where data differ from node to node, honest neighbours move us further than our own training does:
on digits with two classes a node 62 % of the exchanges are clipped, and 3 points of accuracy lost
(one seed). Nor does a radius help much against who always repeats one old model (`replay`), of
whose exchanges 11 % are clipped. `benchmarks/attacks.py` prints where this stands.
"""

from __future__ import annotations

from math import inf, sqrt
from statistics import median_low
from typing import Literal

from gossip.codec import Patch
from gossip.density import Motion
from p2p import PeerId

Merge = Literal["mean", "clipped"]

MEDIAN = 2.0  # a guess
PROGRESS = 2.0  # a guess that keeps digits, IID, at 0.98 under "a little is enough"
MAJORITY = 3  # links, of which one liar is a minority


class Guard:
    """Decides for all links of one agent.

    `clipped` counts the exchanges of which less than all was merged.
    """

    def __init__(self, merge: Merge, motion: Motion) -> None:
        self.clipped = 0
        self._merge = merge
        self._motion = motion
        self._lengths: dict[PeerId, float] = {}  # the latest of each link

    def scale(self, peer: PeerId, mine: Patch, theirs: Patch) -> float:
        """Which share of an exchange with the peer to merge, 0 to 1."""
        if self._merge == "mean":
            return 1.0
        length = (_norm(mine) + _norm(theirs)) / 2
        self._lengths[peer] = length
        radius = self._radius()
        if length <= radius:
            return 1.0
        self.clipped += 1
        return radius / length

    def forget(self, peer: PeerId) -> None:
        """The link with the peer is down."""
        self._lengths.pop(peer, None)

    def _radius(self) -> float:
        radius = PROGRESS * sqrt(self._motion.squared) if self._motion.squared else inf
        if len(self._lengths) >= MAJORITY:
            radius = min(radius, MEDIAN * median_low(self._lengths.values()))
        return radius


def _norm(patch: Patch) -> float:
    return float(patch.values.double().norm())  # squares of 1e30 are no float32
