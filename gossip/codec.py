"""The compressor C: the largest coordinates of a vector, quantised, in few bytes.

**Which.** See `gossip.largest`.

**How well.** A kept coordinate is a sign and one of 2^(bits - 1) magnitudes: a grid above the
threshold decides which, and what is sent for each cell of the grid is the mean of what fell into
it. Means make the error smaller than grid points do (at 3 bits clearly so), and what is left is
always shorter than the vector was, which is what error feedback needs. They travel as the upper
halves of float32 numbers, so both sides look values up in one table and no arithmetic can differ
between two machines.

**How small.** Two rows of integers remain, the gaps between the kept indices and the codes
(magnitude, then sign), each coded by `gossip.integers`.

    flags   1 byte: 8 if dense, plus bits - 1
    k       varint, unless dense: how many are kept
    length  varint, of the gaps, if k is at least LONG: so that both rows can be read at once
    gaps    unless dense
    table   2^(bits - 1) times 2 bytes
    codes   two to a number if k is at least LONG and bits at most 3: a code by itself takes a
            whole number of bits, which is up to a fifth more than it needs

Dense means k = n, without gaps, and a grid that begins at zero and is uniform in the square root of
the magnitude: the layers of a model differ in scale, and a uniform grid as wide as a BatchNorm's
variances would flatten the weights. At 8 bits no error exceeds 1.6 % of the largest magnitude, and
on normal numbers the error is 0.9 % of their length; a uniform grid leaves 1.1 %.

**How fast.** See `gossip.chunks`; sums are taken in the order of chunks, so the bytes do not depend
on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gossip.chunks import CHUNK, each_chunk, parallel
from gossip.errors import CodecError
from gossip.integers import Reader, pack, varint
from gossip.largest import NOT_FINITE, Difference, Floats, Indices

Codes = NDArray[np.uint8]
Table = NDArray[np.uint16]  # the upper halves of float32 numbers
Pieces = Callable[[int], Floats]  # the numbers of the chunk that begins there

LONG = 1 << 12  # codes; below, the larger Huffman table costs more than pairs save. Measured.
FEW = 4  # cells; counting them one by one is then three times as fast as bincount, and in parallel
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
        values = self.values.to(vector)
        if self.indices is None:
            vector.add_(values, alpha=weight)
        elif vector.device.type != "cpu":
            vector.index_add_(0, self.indices.to(vector.device), values, alpha=weight)
        else:
            # In pieces: index_add_ works in one thread, and no index is there twice.
            indices, kept = self.indices, values.numel()

            def add(start: int) -> None:
                piece = slice(start, start + CHUNK)
                vector.index_add_(0, indices[piece], values[piece], alpha=weight)

            if kept <= CHUNK:
                vector.index_add_(0, indices, values, alpha=weight)
            else:
                each_chunk(add, kept)

    def dense(self) -> Tensor:
        """All coordinates, (n,) float32; the patch's own values where it has them all."""
        if self.indices is None:
            return self.values
        vector = torch.zeros(self.size)
        vector[self.indices] = self.values
        return vector

    def followed_by(self, other: Patch) -> Patch:
        """The patch of two vectors in a row."""
        size, values = self.size + other.size, torch.cat((self.values, other.values))
        if self.indices is None and other.indices is None:
            return Patch(size, None, values)
        indices = torch.cat((self._positions(), other._positions() + self.size))
        return Patch(size, indices, values)

    def padded(self, size: int) -> Patch:
        """The same patch of a vector that goes on with zeros, up to `size` coordinates."""
        if size == self.size:
            return self
        return Patch(size, self._positions(), self.values)

    def _positions(self) -> Tensor:
        if self.indices is not None:
            return self.indices
        return torch.arange(self.size, dtype=torch.int32)


def encode(
    vector: Tensor, config: CodecConfig, reference: Tensor | None = None
) -> tuple[bytes, Patch]:
    """Compress (n,) finite float32 or float64, less (n,) `reference`, on any device.

    The patch, on the CPU, is what `decode` makes of the bytes. The difference is never there as a
    whole. Raises ValueError on NaN and on infinity, also on what is infinite as float32.
    """
    difference = Difference.of(vector, reference)
    size, flags = difference.size, config.bits - 1
    if config.density == 1.0:
        codes, values = _write_values(difference.piece, size, 0.0, config.bits, root=True)
        return bytes((flags | DENSE,)) + codes, Patch(size, None, values)
    found, kept, threshold = difference.largest(config.density)

    def piece(start: int) -> Floats:
        return kept[start : start + CHUNK]

    (gaps, indices), (codes, values) = parallel(
        (
            partial(_write_indices, found),
            partial(_write_values, piece, len(kept), threshold, config.bits, root=False),
        ),
        size,
    )
    return bytes((flags,)) + gaps + codes, Patch(size, indices, values)


def decode(data: bytes, size: int) -> Patch:
    """Read a compressed vector of `size` coordinates. Raises only CodecError, whatever the bytes.

    Takes time and memory in proportion to `size`, however much the bytes claim.
    """
    reader = Reader(data)
    flags = reader.byte()
    if flags >= 2 * DENSE:
        raise CodecError(f"flags {flags} are unknown")
    bits = (flags & 7) + 1
    if flags & DENSE:
        return Patch(size, None, _read_values(reader, size, bits))
    kept = reader.varint()
    if kept > size:
        raise CodecError(f"{kept} coordinates are kept of {size}")
    gaps = Reader(reader.take(reader.varint())) if kept >= LONG else reader
    indices, values = parallel(
        (partial(_read_indices, gaps, kept, size), partial(_read_values, reader, kept, bits)),
        kept,
    )
    gaps.finish()
    return Patch(size, indices, values)


# the two rows -------------------------------------------------------------------------------------


def _write_indices(indices: Indices) -> tuple[bytes, Tensor]:
    """How many, and the gaps; and the indices as a tensor."""
    gaps = indices.copy()
    gaps[1:] -= indices[:-1] + 1
    packed, kept = pack(gaps), len(indices)
    head = varint(kept) + (varint(len(packed)) if kept >= LONG else b"")
    return head + packed, torch.from_numpy(indices)


def _read_indices(reader: Reader, kept: int, size: int) -> Tensor:
    """The indices, (k,) int32, ascending and below `size`."""
    gaps = reader.integers(kept, size)
    last = int(gaps.sum(dtype=np.int64)) + kept - 1  # at most size^2, far below 2^63
    if last >= size:
        raise CodecError(f"index {last} is not below {size}")
    positions = np.cumsum(gaps, dtype=np.int32)
    positions += np.arange(kept, dtype=np.int32)
    return torch.from_numpy(positions)


def _write_values(
    piece: Pieces, size: int, threshold: float, bits: int, *, root: bool
) -> tuple[bytes, Tensor]:
    """The table and the codes; and what they stand for."""
    table, codes = _quantise(piece, size, threshold, bits, root=root)
    symbols = codes
    if _in_pairs(len(codes), bits):
        symbols = codes[::2].copy()
        symbols[: len(codes) // 2] |= codes[1::2] << bits
    return table.astype("<u2").tobytes() + pack(symbols), _look_up(_values(table), codes)


def _read_values(reader: Reader, kept: int, bits: int) -> Tensor:
    """The rest of a message: the table, and a code for each of `kept` coordinates."""
    values = _values(np.frombuffer(reader.take(1 << bits), "<u2"))
    if not np.isfinite(values).all():
        raise CodecError("the table holds NaN or infinity")
    pairs = _in_pairs(kept, bits)
    if pairs:
        values = np.stack((np.tile(values, len(values)), np.repeat(values, len(values))), axis=1)
    symbols = reader.integers(-(-kept // 2) if pairs else kept, len(values))
    reader.finish()
    if kept and int(symbols.max()) >= len(values):
        raise CodecError(f"code {int(symbols.max())} is not below {len(values)}")
    return _look_up(values, symbols).flatten()[:kept]


def _in_pairs(kept: int, bits: int) -> bool:
    return kept >= LONG and bits <= 3


def _look_up(values: Floats, symbols: NDArray[np.integer[Any]]) -> Tensor:
    """(k,) or (k, 2) float32. By PyTorch if they are many: it is then twice as fast as numpy."""
    if len(symbols) < LONG:
        return torch.from_numpy(values[symbols])
    table, chosen = torch.from_numpy(values), torch.from_numpy(symbols)
    found = torch.empty((len(symbols), *values.shape[1:]))

    def look_up(start: int) -> None:
        piece = slice(start, start + CHUNK)
        torch.index_select(table, 0, chosen[piece].int(), out=found[piece])

    each_chunk(look_up, len(symbols))
    return found


# how well -----------------------------------------------------------------------------------------


def _quantise(
    piece_at: Pieces, size: int, threshold: float, bits: int, *, root: bool
) -> tuple[Table, Codes]:
    """The table (upper halves of float32) and each number's code: magnitude * 2 + sign.

    The grid is uniform, or with `root` uniform in the square root.
    """
    cells = 1 << (bits - 1)
    low, width = np.float32(threshold), _cell_width(piece_at, size, threshold, cells, root=root)
    codes = np.empty(size, np.uint8)

    def code(start: int) -> tuple[NDArray[Any], NDArray[Any]]:
        piece = piece_at(start)
        magnitudes = np.abs(piece)
        cell = np.zeros(len(piece), np.uint8)
        if width > 0:
            with np.errstate(over="ignore"):
                place = (magnitudes - low) / width
            if root:
                np.sqrt(place, out=place)
            cell = np.minimum(place, np.float32(cells - 1), out=place).astype(np.uint8)
        codes[start : start + CHUNK] = cell << 1 | np.signbit(piece)
        return _tally(cell, magnitudes, cells)

    pieces = each_chunk(code, size)
    counts = sum(counts for counts, _ in pieces)
    sums = sum(sums for _, sums in pieces)
    return _upper_half((sums / np.maximum(counts, 1)).astype(np.float32)), codes


def _tally(cell: Codes, magnitudes: Floats, cells: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """How many numbers each cell received, and their sum."""
    if cells > FEW or len(cell) < LONG:
        counts = np.bincount(cell, minlength=cells)
        return counts, np.bincount(cell, weights=magnitudes, minlength=cells)
    members = [cell == index for index in range(cells)]
    sums = [np.sum(magnitudes * chosen, dtype=np.float64) for chosen in members]
    return np.array([np.count_nonzero(chosen) for chosen in members]), np.array(sums)


def _cell_width(
    piece_at: Pieces, size: int, threshold: float, cells: int, *, root: bool
) -> np.float32:
    """The width of the grid's first cell; 0 if all are equal."""

    def measure(start: int) -> tuple[float, float]:
        magnitudes = np.abs(piece_at(start))
        return float(magnitudes.max(initial=0.0)), float(magnitudes.sum(dtype=np.float64))

    pieces = each_chunk(measure, size)
    largest = max(most for most, _ in pieces)
    mean = sum(total for _, total in pieces) / max(size, 1)
    if not isfinite(mean):  # one bad number spoils it
        raise ValueError(NOT_FINITE)
    # In means above the threshold, not in parts of the range: one large outlier must not push all
    # others into the first cell. The last cell takes whatever is beyond.
    even = (largest - threshold) / (cells * cells if root else cells)
    return np.float32(max(0.0, min(even, STEP * (mean - threshold))))


def _upper_half(numbers: Floats) -> Table:
    """Rounded to bfloat16, halves up, and never up to infinity."""
    raised = (numbers.view(np.uint32).astype(np.uint64) + 0x8000) >> 16
    highest: Table = np.minimum(raised, np.uint64(0x7F7F)).astype(np.uint16)
    return highest


def _values(table: Table) -> Floats:
    """The number for each code."""
    positive = (table.astype(np.uint32) << 16).view(np.float32)
    values = np.empty(2 * len(table), np.float32)
    values[::2], values[1::2] = positive, -positive
    return values
