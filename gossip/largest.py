"""Which coordinates are kept: the largest of a difference, which is never there as a whole.

The threshold is a quantile of |x - r|, of all of it where it is small and of a sample where it is
large, so no sort is needed; coordinates at or above it are kept.

A difference is computed chunk by chunk, as often as it is looked at: subtracting in the cache costs
less than writing a vector of its own and reading it again. One of a single chunk is computed once.

Vectors on an accelerator stay there: the sample is gathered and the threshold compared there, and
only the sample and what is kept cross to the host. Both ways find the same indices and the same
numbers, for IEEE subtraction has one result. PyTorch's operations are tested here on the CPU, where
`host=False` takes that way; no accelerator was at hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gossip.chunks import CHUNK, each_chunk

Floats = NDArray[np.float32]
Indices = NDArray[np.int32]

SAMPLE = 1 << 16  # coordinates; the share kept is then right to 1.2 % at 10 %
SAMPLED = 1000  # coordinates of the sample at least are above the threshold: right to 3 %
NOT_FINITE = "a vector with NaN or infinity cannot be compressed"
TOLERANCE = 1.1  # times as many as asked for may be kept; of more, the largest are chosen
GLANCE = 8  # one in so many is looked at first, to find those that may be among the largest
SURELY = 1.5  # times as many as are wanted are looked for: a glance errs
AWAY = 1 << 24  # coordinates at a time on an accelerator, which is slow to start; bounds its memory


@dataclass(frozen=True, slots=True)
class Difference:
    """`vector - reference`, or `vector` alone; (n,) each, on one device, float32 or float64."""

    vector: Tensor
    reference: Tensor | None
    host: bool  # worked on by NumPy, in the memory of the vectors
    size: int

    @classmethod
    def of(cls, vector: Tensor, reference: Tensor | None = None) -> Difference:
        """Raises ValueError if the two differ in shape."""
        if reference is not None and reference.shape != vector.shape:
            raise ValueError(f"{tuple(vector.shape)} minus {tuple(reference.shape)} is no vector")
        vector, size = vector.detach(), vector.numel()
        if reference is not None and size <= CHUNK:
            vector, reference = vector - reference, None
        return cls(vector, reference, vector.device.type == "cpu", size)

    def piece(self, start: int) -> Floats:
        """The chunk that begins at `start`, on the host."""
        return self._on_device(slice(start, start + CHUNK)).cpu().numpy()

    def largest(self, density: float) -> tuple[Indices, Floats, float]:
        """The indices to keep, ascending; what is there; and the threshold.

        Raises ValueError on NaN and on infinity.
        """
        wanted = max(1, round(density * self.size))
        threshold, exact = self._threshold(density, wanted)
        indices, kept = self._at_least(threshold)
        _refuse_not_finite(kept)
        if len(indices) > (wanted if exact else TOLERANCE * wanted):
            # Equals, or an unlucky sample. Among equals the first; the others come next time.
            magnitudes = np.abs(kept)
            least = np.partition(magnitudes, len(kept) - wanted)[len(kept) - wanted]
            chosen = magnitudes > least
            equals = np.flatnonzero(magnitudes == least)
            chosen[equals[: wanted - np.count_nonzero(chosen)]] = True
            indices, kept, threshold = indices[chosen], kept[chosen], float(least)
        return indices, kept, threshold

    def _on_device(self, where: slice | Tensor) -> Tensor:
        found = self.vector[where]
        return (found if self.reference is None else found - self.reference[where]).float()

    def _threshold(self, density: float, wanted: int) -> tuple[float, bool]:
        """The quantile of the magnitudes, and whether it is exact."""
        size = self.size
        sample = max(SAMPLE, round(SAMPLED / density))
        if size <= sample:
            magnitudes = self._on_device(slice(None)).abs().cpu().numpy()
            return _from_above(magnitudes, wanted), True
        at = _drawn(size, sample).to(self.vector.device)
        rank = min(sample - 1, round((1 - density) * sample))
        return float(np.partition(self._on_device(at).abs().cpu().numpy(), rank)[rank]), False

    def _at_least(self, threshold: float) -> tuple[Indices, Floats]:
        """Where it reaches the threshold, or is above zero if that is zero; and what is there."""
        limit = np.float32(threshold) if threshold > 0 else np.finfo(np.float32).smallest_subnormal
        if self.host:
            pieces = each_chunk(lambda start: self._look(start, limit), self.size)
        else:
            starts = range(0, self.size, AWAY)
            pieces = [self._look_away(start, float(limit)) for start in starts]
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate([at for at, _ in pieces]), np.concatenate(
            [what for _, what in pieces]
        )

    def _look(self, start: int, limit: np.float32) -> tuple[Indices, Floats]:
        piece = self.piece(start)
        size = len(piece)
        # NumPy jumps from one hit to the next where at most a tenth is true, which a processor
        # cannot foresee; it is twice as fast where it takes each in turn, so more is true.
        reached = np.ones(size + size // 8 + 1, bool)
        np.less(np.abs(piece), limit, out=reached[:size])
        np.logical_not(reached[:size], out=reached[:size])  # with NaN, which is refused later
        found = np.flatnonzero(reached)[: size - len(reached)]
        indices = found.astype(np.int32)
        indices += np.int32(start)
        return indices, piece.take(found, mode="clip")  # none is out of range; "raise" is slower

    def _look_away(self, start: int, limit: float) -> tuple[Indices, Floats]:
        piece = self._on_device(slice(start, start + AWAY))
        found = torch.lt(piece.abs(), limit).logical_not_().nonzero().view(-1)
        return (found + start).int().cpu().numpy(), piece[found].cpu().numpy()


@lru_cache(4)
def _drawn(size: int, count: int) -> Tensor:
    """So many of `size` coordinates, always the same; not to be written to.

    At random, not at a stride: weight matrices are periodic.
    """
    return torch.from_numpy(np.random.default_rng(size).integers(0, size, count))


def _from_above(magnitudes: Floats, wanted: int) -> float:
    """The `wanted`-th largest, exactly. Most are below it by far, as a glance at a few of them
    tells, and need not be put in order."""
    size = len(magnitudes)
    few = magnitudes[::GLANCE]
    rank = len(few) - int(SURELY * wanted / GLANCE) - 1
    if rank >= 0:
        above = magnitudes[magnitudes >= np.partition(few, rank)[rank]]
        if len(above) >= wanted:
            magnitudes, size = above, len(above)
    return float(np.partition(magnitudes, size - wanted)[size - wanted])


def squared_distance(vector: Tensor, reference: Tensor) -> float:
    """|vector - reference|^2, of all coordinates or estimated from SAMPLE of them."""
    size = vector.numel()
    if size <= SAMPLE:
        apart = vector - reference
        return float(apart.dot(apart))
    at = _drawn(size, SAMPLE).to(vector.device)
    found = (vector[at] - reference[at]).square().sum(dtype=torch.float64)
    return float(found) * size / SAMPLE


def _refuse_not_finite(numbers: NDArray[np.floating[Any]]) -> None:
    if not np.isfinite(numbers).all():
        raise ValueError(NOT_FINITE)
