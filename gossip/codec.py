"""The compressor C: the largest coordinates of a vector, quantised, in few bytes.

**Which.** The threshold is a quantile of |v|, of all of it where it is small and of a sample where
it is large, so no sort is needed; coordinates at or above it are kept.

**How well.** A kept coordinate is a sign and one of 2^(bits - 1) magnitudes: a uniform grid above
the threshold decides which, and what is sent for each cell of the grid is the mean of what fell
into it. Means make the error smaller than grid points do (at 3 bits clearly so) and never longer
than the vector itself. They travel as the upper halves of float32 numbers, so both sides look
values up in one table and no arithmetic can differ between two machines.

**How small.** Two rows of integers remain, the gaps between the kept indices and the codes
(magnitude, then sign), each coded by `gossip.integers`.

    flags   1 byte: 8 if dense, plus bits - 1
    k       varint, unless dense: how many are kept
    table   2^(bits - 1) times 2 bytes
    gaps    unless dense
    codes

Dense means k = n, without gaps, and a grid that begins at zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gossip.errors import CodecError
from gossip.integers import Reader, pack, varint

Floats = NDArray[np.float32]
Indices = NDArray[np.int32]
Codes = NDArray[np.uint8]
Table = NDArray[np.uint16]  # the upper halves of float32 numbers

SAMPLE = 1 << 16  # coordinates; the share kept is then right to 1.2 % at 10 %
TOLERANCE = 1.1  # times as many as asked for may be kept before ties are cut
CHUNK = 1 << 16  # coordinates at a time, so that what is computed of them stays in the cache
DENSE = 8
STEP = 1.4  # width of a cell, in means; measured on consensus


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecConfig:
    """What a vector is compressed to."""

    density: float = 0.1
    """Share of the coordinates that are kept, above 0 and up to 1. The share matters more than the
    bits: measured on digits and on plain consensus, 10 % at 3 bits needs the fewest bytes."""

    bits: int = 3
    """Of each kept coordinate, sign included, 1 to 8."""

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise ValueError(f"density is a share above 0 and up to 1, not {self.density}")
        if not 1 <= self.bits <= 8:
            raise ValueError(f"bits is 1 to 8, not {self.bits}")


@dataclass(frozen=True, slots=True)
class Patch:
    """A compressed vector of `size` coordinates, decoded."""

    size: int
    indices: Tensor | None  # (k,) int32, ascending; None: all
    values: Tensor  # (k,) float32

    def add_to(self, vector: Tensor, weight: float) -> None:
        """Add it to (n,), in place; exact on every machine if `weight` is a power of two."""
        values = self.values.to(vector.dtype)
        if self.indices is None:
            vector.add_(values, alpha=weight)
        else:
            vector.index_add_(0, self.indices, values, alpha=weight)

    def dense(self) -> Tensor:
        """All coordinates, (n,) float32."""
        if self.indices is None:
            return self.values.clone()
        vector = torch.zeros(self.size)
        vector[self.indices] = self.values
        return vector


def encode(vector: Tensor, config: CodecConfig) -> tuple[bytes, Patch]:
    """Compress (n,) finite float32 or float64; the patch is what `decode` makes of the bytes.

    Raises ValueError on infinity.
    """
    numbers = vector.float().numpy()
    flags = config.bits - 1
    if config.density == 1.0:
        table, codes = _quantise(numbers, 0.0, config.bits)
        data = bytes((flags | DENSE,)) + _table_bytes(table) + pack(codes)
        return data, Patch(len(numbers), None, torch.from_numpy(_values(table)[codes]))
    indices, kept, threshold = _select(numbers, config.density)
    table, codes = _quantise(kept, threshold, config.bits)
    gaps = np.diff(indices, prepend=np.int32(-1)) - np.int32(1)
    data = b"".join(
        (bytes((flags,)), varint(len(indices)), _table_bytes(table), pack(gaps), pack(codes))
    )
    values = torch.from_numpy(_values(table)[codes])
    return data, Patch(len(numbers), torch.from_numpy(indices), values)


def decode(data: bytes, size: int) -> Patch:
    """Read a compressed vector of `size` coordinates. Raises only CodecError, whatever the bytes.

    Takes time and memory in proportion to `size`, however much the bytes claim.
    """
    reader = Reader(data)
    flags = reader.byte()
    if flags >= 2 * DENSE:
        raise CodecError(f"flags {flags} are unknown")
    cells = 1 << (flags & 7)
    dense = bool(flags & DENSE)
    kept = size if dense else reader.varint()
    if kept > size:
        raise CodecError(f"{kept} coordinates are kept of {size}")
    table = np.frombuffer(reader.take(2 * cells), "<u2")
    values = _values(table)
    if not np.isfinite(values).all():
        raise CodecError("the table holds NaN or infinity")
    indices = None
    if not dense:
        gaps = reader.integers(kept, size)
        positions = np.cumsum(gaps, dtype=np.int64)
        positions += np.arange(kept)
        if kept and positions[-1] >= size:
            raise CodecError(f"index {positions[-1]} is not below {size}")
        indices = torch.from_numpy(positions.astype(np.int32))
    codes = reader.integers(kept, 2 * cells)
    reader.finish()
    if kept and int(codes.max()) >= 2 * cells:
        raise CodecError(f"code {int(codes.max())} is not below {2 * cells}")
    return Patch(size, indices, torch.from_numpy(values[codes]))


# which --------------------------------------------------------------------------------------------


def _select(numbers: Floats, density: float) -> tuple[Indices, Floats, float]:
    """The indices to keep, ascending; what is there; and the threshold."""
    wanted = max(1, round(density * len(numbers)))
    threshold = _threshold(numbers, density, wanted)
    indices, kept = _at_least(numbers, threshold)
    exact = len(numbers) <= SAMPLE
    if len(indices) > (wanted if exact else TOLERANCE * wanted):
        # Too many equals. The largest, and among equals the first; the others come next time.
        largest = np.argsort(-np.abs(kept), kind="stable")[:wanted]
        largest.sort()
        indices, kept = indices[largest], kept[largest]
    return indices, kept, threshold


def _threshold(numbers: Floats, density: float, wanted: int) -> float:
    size = len(numbers)
    if size <= SAMPLE:
        return float(np.partition(np.abs(numbers), size - wanted)[size - wanted])
    # Drawn at random, not at a stride: weight matrices are periodic.
    drawn = np.random.default_rng(size).integers(0, size, SAMPLE)
    rank = min(SAMPLE - 1, round((1 - density) * SAMPLE))
    return float(np.partition(np.abs(numbers[drawn]), rank)[rank])


def _at_least(numbers: Floats, threshold: float) -> tuple[Indices, Floats]:
    """Where |v| reaches the threshold, or is above zero if that is zero; and what is there."""
    limit = np.float32(threshold) if threshold > 0 else np.finfo(np.float32).smallest_subnormal

    def look(start: int) -> tuple[Indices, Floats]:
        piece = numbers[start : start + CHUNK]
        found = np.flatnonzero(np.abs(piece) >= limit)
        return found.astype(np.int32) + np.int32(start), piece[found]

    pieces = [look(start) for start in range(0, len(numbers), CHUNK)]
    return np.concatenate([at for at, _ in pieces]), np.concatenate([what for _, what in pieces])


# how well -----------------------------------------------------------------------------------------


def _quantise(numbers: Floats, threshold: float, bits: int) -> tuple[Table, Codes]:
    """The table (upper halves of float32) and each number's code: magnitude * 2 + sign."""
    cells = 1 << (bits - 1)
    width = _cell_width(numbers, threshold, cells)
    codes = np.empty(len(numbers), np.uint8)
    counts, sums = np.zeros(cells), np.zeros(cells)
    for start in range(0, len(numbers), CHUNK):
        piece = numbers[start : start + CHUNK]
        magnitudes = np.abs(piece)
        if width > 0:
            with np.errstate(over="ignore"):  # far beyond the grid: the last cell
                cell = np.minimum((magnitudes - np.float32(threshold)) / width, cells - 1)
            cell = cell.astype(np.uint8)
        else:
            cell = np.zeros(len(piece), np.uint8)
        counts += np.bincount(cell, minlength=cells)
        sums += np.bincount(cell, weights=magnitudes, minlength=cells)
        codes[start : start + CHUNK] = cell << 1 | np.signbit(piece)
    return _upper_half((sums / np.maximum(counts, 1)).astype(np.float32)), codes


def _cell_width(numbers: Floats, threshold: float, cells: int) -> np.float32:
    largest = float(max(numbers.max(initial=0.0), -numbers.min(initial=0.0)))
    if not isfinite(largest):
        raise ValueError("a vector with NaN or infinity cannot be compressed")
    # In means above the threshold, not in parts of the range: one large outlier must not push all
    # others into the first cell. The last cell takes whatever is beyond.
    mean = float(np.abs(numbers).mean(dtype=np.float64)) - threshold if len(numbers) else 0.0
    return np.float32(min((largest - threshold) / cells, STEP * mean))


def _upper_half(numbers: Floats) -> Table:
    """Rounded to bfloat16, halves up, and never up to infinity."""
    raised = (numbers.view(np.uint32).astype(np.uint64) + 0x8000) >> 16
    highest: Table = np.minimum(raised, np.uint64(0x7F7F)).astype(np.uint16)
    return highest


def _values(table: Table) -> Floats:
    """The number for each code."""
    positive = (table.astype(np.uint32) << 16).view(np.float32)
    return np.stack((positive, -positive), axis=1).ravel()


def _table_bytes(table: Table) -> bytes:
    return table.astype("<u2").tobytes()
