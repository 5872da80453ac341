"""How much of a difference a half carries: the control law of a link.

What a link costs is the share of the coordinates that each half keeps, its *density*; what it buys
is that neighbours lag less behind each other. Each end of a link watches how far it lags:

    lag     = |x - r|^2 / (mean |progress of a round of training|^2)
    density = base * max(1, lag / most usual lag)^(1/2)      up to a bound, and to a byte budget

The lag says how much training an end is ahead of what it has told the other: about sqrt(lag) rounds
in a straight line, lag rounds at random. It has no unit and needs no tuning to a model's scale or
learning rate. In the steady state it is close to 1.6 / (share of the squared length that a half
takes away)^2, for every task, split and optimizer that we tried: 10 at a density of 10 %, 25 to 45
at 5 %, 80 to 190 at 2 %. So a lag far above that means that the link has fallen behind: exchanges
are few for so much training, a partition has just healed, the learning rate decays (progress
shrinks first; then the models must meet). Then halves grow until it has caught up. Nothing about it
is agreed between the ends: every message says how much it holds.

Why the density never falls below its base: a law that steered the lag itself, in both directions,
was worse than a fixed share at equal bytes. It saves in the beginning, when progress is large, and
that is when agreeing is worth most (characters, Adam, 400 rounds: accuracy 0.445 at 86 times fewer
bytes than float32, where a fixed 3.5 % reaches 0.451 at 80 times).

Failure modes. Where training stands still the lag is not defined, and the density is the base.
A learner whose rounds differ a thousandfold makes it swing; it is bounded. A peer that moves `r`
far away makes us send up to `most`, at most five times the usual bytes.

The bits are 3 below `DENSE` and 4 above: of a sparse difference the indices cost most, of a dense
one the values do, and are worth another bit.
"""

from __future__ import annotations

from dataclasses import dataclass

from gossip.codec import CodecConfig

MEMORY = 0.9  # of the mean progress, a round
FEW = 32  # coordinates; fewer save little beside the 100 bytes that a packet takes around them
DENSE = 0.15
SPARSE_BITS, DENSE_BITS = 3, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class DensityConfig:
    """Where the law leads, and its bounds."""

    base: float = 0.04
    """Share kept usually, or 32 coordinates if that is more. From `benchmarks/learning.py`: some 70
    times fewer bytes than float32 and an accuracy within a point of its, skewed data or not."""

    lag: float = 100.0
    """Above this, more is kept. Twice what is usual at the base; see above."""

    least: float = 0.01
    """Share kept at least, whatever the budget. Below, error feedback is so slow that skewed data
    diverge."""

    most: float = 0.2
    """Share kept at most. A guess: a link that is behind catches up in ten exchanges."""

    def __post_init__(self) -> None:
        if not self.lag > 0:
            raise ValueError(f"lag is above 0, not {self.lag}")
        if not 0 < self.least <= self.base <= self.most <= 1:
            raise ValueError(
                "least, base and most are shares above 0 and up to 1, in this order, not "
                f"{self.least}, {self.base}, {self.most}"
            )


class Motion:
    """How far a round of training moves the model: the mean of its squared length."""

    __slots__ = ("squared",)

    def __init__(self) -> None:
        self.squared = 0.0  # 0 until something was measured

    def measure(self, squared: float) -> None:
        """A round of training has moved the model by this squared length."""
        self.squared = MEMORY * self.squared + (1 - MEMORY) * squared if self.squared else squared


class Density:
    """The share that one end of a link keeps."""

    __slots__ = ("_config", "_cost", "_motion", "share")

    def __init__(self, config: DensityConfig, motion: Motion) -> None:
        self.share = config.base
        self._config = config
        self._motion = motion
        self._cost = 1.0  # bytes of a kept coordinate, as of the last half

    def choose(self, squared: float, size: int, most_bytes: float) -> CodecConfig:
        """What the next half of `size` coordinates is compressed to.

        Args:
            squared: |x - r|^2.
            most_bytes: that the half should take; but `least` is always sent.
        """
        config, pace = self._config, self._motion.squared
        lag = squared / pace if pace > 0 else 0.0
        share = min(config.base * max(1.0, lag / config.lag) ** 0.5, config.most)
        share = min(max(share, FEW / size), 1.0)
        self.share = max(min(share, most_bytes / self._cost / size), config.least)
        bits = DENSE_BITS if self.share >= DENSE else SPARSE_BITS
        return CodecConfig(density=self.share, bits=bits)

    def sent(self, kept: int, size: int) -> None:
        """So many coordinates took so many bytes."""
        self._cost = max(size, 1) / max(kept, 1)
