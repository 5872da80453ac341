"""How far to believe each neighbour: what its model does on samples of our own.

Clipping bounds how far a liar moves `x` at once; this looks at where it pulls to. The two halves of
a link meet in the middle, so its reference `r` is about halfway between `x` and the neighbour's
model, and

    2 r - x                                          is about that model
    excess = log(loss of it / loss of x)             of both on the same few samples
    trust = 1 / (how many times the usual excess)^4  the usual: the median, over the links and x

where the excess is an average over the last looks, and nobody is trusted more than fully. The trust
is the share of its exchanges that goes into `x`. So a neighbour whose loss is usually half as high
again as that of most counts for a fifth, and counts again when its model does. It need not be
caught at anything: a model that was right an hour ago (`replay`) betrays itself by nothing but its
loss. Nor is it blamed: who sees other data than we do has a higher loss on ours, and is honest.

To believe a neighbour by its model's loss on one's own samples: UBAR (Guo et al., "Byzantine-
resilient decentralized stochastic gradient descent", 2021), which drops neighbours whose loss is
above one's own, and Basil (Elkordy, Prakash, Avestimehr, 2022). Those have the neighbours' models
in full; to get them from the reference, and to weigh instead of to drop, is ours. To drop who is a
quarter further behind than twice the usual did not hold `replay` (0.87, weighing 0.94 to 0.95; both
without the narrow radius of `gossip.merging`, one seed).

Limits. The median holds while fewer than half of the links lie. Where data differ from node to node
a high loss says nothing, and honest neighbours are believed too little; a rule that noticed this by
itself, from the median excess, could be made to believe liars (`little` drives it up). Where the
loss falls slowly an old model is hardly worse than a new one, and `replay` holds everybody back:
logistic regression on two classes stayed at 0.64. The loss is taken to be at least 0; a model of a
loss below counts as one of 0. Buffers are not looked at. Who comes under a new id is believed at
first.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, isfinite, isnan, log
from statistics import median_low

from torch import Tensor

from p2p import PeerId

SEVERITY = 4.0  # the power above. A guess
MEMORY = 0.7  # of the excess, a look at the link
MOST = 3.0  # of an excess: beyond, a model is merely bad; bounds how long that is remembered
LEAST = 1e-9  # of a loss
KEPT = 64  # peers whose links are down; as many as receipts. A guess


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """A model to take the loss of: about a neighbour's, as far as our link with it tells."""

    peer: PeerId
    parameters: Tensor  # (n,); a copy


class Trust:
    """In each neighbour of one agent, 0 to 1; 1 until something was seen."""

    __slots__ = ("_excess", "_lost")

    def __init__(self) -> None:
        self._excess: dict[PeerId, float] = {}
        self._lost: dict[PeerId, float] = {}  # of links that are down

    def judge(self, peer: PeerId, theirs: float, ours: float) -> None:
        """The losses of about the peer's model and of ours, on the same samples.

        A model whose loss is NaN is as bad as any; if ours is not finite, nothing is learned.
        """
        if not isfinite(ours):
            return
        ratio = 1 / LEAST if isnan(theirs) else max(theirs, LEAST) / max(ours, LEAST)
        excess = min(max(log(ratio), -MOST), MOST)
        before = self._excess.get(peer, self._lost.pop(peer, excess))
        self._excess[peer] = MEMORY * before + (1 - MEMORY) * excess

    def of(self, peer: PeerId) -> float:
        """Which share of what the peer says to take."""
        excess = self._excess.get(peer, self._lost.get(peer))
        if excess is None:
            return 1.0
        usual = median_low([0.0, *self._excess.values()])
        return exp(-SEVERITY * max(0.0, excess - usual))

    def forget(self, peer: PeerId) -> None:
        """The link with the peer is down. If it comes back soon it is believed no more than
        before, or a liar would only have to ask for a new link."""
        excess = self._excess.pop(peer, None)
        if excess is None:
            return
        self._lost[peer] = excess
        if len(self._lost) > KEPT:
            del self._lost[next(iter(self._lost))]
