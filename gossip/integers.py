"""Rows of small integers in few bytes.

Each row chooses a number of low bits, which are stored as they are, and codes the high parts apart
from them, in the smallest of three ways:

    NONE    there are none: every number fits the low bits
    UNARY   q zeros and a one: with the low bits, Golomb-Rice coding, which is within a few per cent
            of the entropy of geometric gaps and has no tables to send. For short rows.
    BYTES   one byte each, through zstandard, whose Huffman tables learn the distribution anew every
            128 KiB; 255 says that the rest follows as a varint at the end. For long rows.

    head    1 byte: way * 32 + low bits
    low     ceil(k * low bits / 8) bytes
    length  varint, of the coded high parts (absent for NONE)
    high    that many bytes
"""

from __future__ import annotations

from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from gossip.errors import CodecError

NONE, UNARY, BYTES = range(3)
MOST_LOW = 31
LONG = 256  # numbers; below, zstandard's own headers cost more than it saves. Measured.
VERY_LONG = 1 << 16  # numbers; above, zstandard is always ahead and ten times as fast. Measured.
ESCAPE = 255
MOST_VARINT = 5  # bytes
# Huffman coding is wanted, not matches: where there are few symbols, chance matches of four bytes,
# which any level looks for, cost 26 % (measured: 3-bit codes 1.26 times their entropy, so 1.09).
HUFFMAN = zstandard.ZstdCompressionParameters(
    strategy=zstandard.STRATEGY_FAST, min_match=7, hash_log=6, chain_log=6, window_log=17
)

Integers = NDArray[np.integer[Any]]


def varint(number: int) -> bytes:
    """Seven bits a byte, lowest first; the top bit says that more follow."""
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def pack(numbers: Integers) -> bytes:
    """Code a row of integers from 0 to 2^31 - 1."""
    count = len(numbers)
    if count == 0:
        return _row(NONE, numbers, 0, None)
    total = int(numbers.sum(dtype=np.int64))
    mean = total / count
    way, low, high = NONE, int(numbers.max()).bit_length(), None
    least = count * low  # bits
    if count >= LONG:
        few = int(mean / 16).bit_length()
        coded = _bytes(numbers >> few if few else numbers)
        if (bits := len(coded) * 8 + count * few) < least:
            way, low, high, least = BYTES, few, coded, bits
    if count < VERY_LONG:
        guess = max(0, int(mean * 0.69).bit_length() - 1)
        best = None
        for few in (guess, max(0, guess - 1), guess + 1):
            # Rounding down costs the high parts less than 1 each, so most need not be tried.
            if total / 2**few + count * few < least:
                bits = _unary_bits(numbers, few)
                if bits < least:
                    best, least = few, bits
        if best is not None:
            way, low, high = UNARY, best, _unary(numbers >> best)
    return _row(way, numbers, low, high)


def _unary_bits(numbers: Integers, low: int) -> int:
    """How many bits, those left over in the last bytes included."""
    ones = int((numbers >> low).sum(dtype=np.int64)) + len(numbers)
    return -(-ones // 8) * 8 + len(numbers) * low


def _row(way: int, numbers: Integers, low: int, high: bytes | None) -> bytes:
    head = bytes((way << 5 | low,)) + _pack_low(numbers, low)
    return head if high is None else head + varint(len(high)) + high


def _pack_low(numbers: Integers, low: int) -> bytes:
    if low == 0:
        return b""
    if low == 8 and numbers.dtype == np.uint8:
        return numbers.tobytes()
    planes = np.empty((len(numbers), low), np.uint8)
    for bit in range(low):
        planes[:, bit] = (numbers >> bit) & 1
    return np.packbits(planes, bitorder="little").tobytes()


def _unary(high: Integers) -> bytes:
    ends = np.cumsum(high.astype(np.int64) + 1) - 1
    bits = np.zeros(int(ends[-1]) + 1 if len(ends) else 0, np.uint8)
    bits[ends] = 1
    return np.packbits(bits, bitorder="little").tobytes()


def _bytes(high: Integers) -> bytes:
    symbols = np.minimum(high, ESCAPE).astype(np.uint8)
    rest = b"".join(varint(int(number) - ESCAPE) for number in high[symbols == ESCAPE])
    plain = symbols.tobytes() + rest if rest else symbols.data
    return zstandard.ZstdCompressor(compression_params=HUFFMAN).compress(plain)


class Reader:
    """Takes a message apart; everything raises only CodecError."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        """The next bytes."""
        piece = self._data[self._at : self._at + size]
        if len(piece) != size:
            raise CodecError(f"{size} bytes wanted at {self._at} of {len(self._data)}")
        self._at += size
        return piece

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._data) - self._at)

    def byte(self) -> int:
        """The next byte."""
        return self.take(1)[0]

    def varint(self) -> int:
        """The next varint, below 2^35."""
        number = 0
        for shift in range(0, 7 * MOST_VARINT, 7):
            byte = self.byte()
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
        raise CodecError("a varint does not end")

    def finish(self) -> None:
        """Nothing may be left."""
        if self._at != len(self._data):
            raise CodecError(f"{len(self._data) - self._at} bytes are left over")

    def integers(self, count: int, limit: int) -> Integers:
        """A row of `count` integers, each at most `limit`, in a type that holds twice that."""
        head = self.byte()
        way, low = head >> 5, head & MOST_LOW
        if way > BYTES or (1 << low) > 2 * max(limit, 1):
            raise CodecError(f"a row cannot begin with {head}")
        kind = np.min_scalar_type(-2 * limit - 2)  # signed; a row may be as long as the model
        numbers = self._low(count, low, kind)
        if way == NONE:
            return numbers
        high = self._high(way, count, limit >> low, kind)
        if low == 0:
            return high
        high <<= low
        high |= numbers
        return high

    def _low(self, count: int, low: int, kind: np.dtype[Any]) -> Integers:
        packed = np.frombuffer(self.take(-(-count * low // 8)), np.uint8)
        if low == 8:
            return packed.astype(kind)
        numbers = np.zeros(count, kind)
        if low:
            planes = np.unpackbits(packed, count=count * low, bitorder="little")
            for bit in range(low):
                numbers |= planes[bit::low].astype(kind) << bit
        return numbers

    def _high(self, way: int, count: int, most: int, kind: np.dtype[Any]) -> Integers:
        coded = self.take(self.varint())
        if way == UNARY:
            ends = np.flatnonzero(np.unpackbits(np.frombuffer(coded, np.uint8), bitorder="little"))
            if len(ends) != count or (count and len(coded) * 8 - ends[-1] > 8):
                raise CodecError(f"{len(ends)} numbers in unary, {count} wanted")
            high = ends.copy()
            high[1:] -= ends[:-1] + 1
            _refuse_above(high, most)
            return high.astype(kind)
        return _read_bytes(coded, count, most, kind)


def _read_bytes(coded: bytes, count: int, most: int, kind: np.dtype[Any]) -> Integers:
    longest = 6 * count  # a byte each, and a varint of five at most
    try:
        if zstandard.get_frame_parameters(coded).content_size > longest:
            raise CodecError(f"more than {longest} bytes are claimed for {count} numbers")
        plain = zstandard.ZstdDecompressor().decompress(
            coded, max_output_size=longest, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise CodecError(f"zstandard: {error}") from None
    symbols = np.frombuffer(Reader(plain).take(count), np.uint8)
    escaped = np.flatnonzero(symbols == ESCAPE)
    rest = _read_varints(np.frombuffer(plain, np.uint8)[count:], len(escaped)) + ESCAPE
    _refuse_above(symbols, most)
    _refuse_above(rest, most)
    high = symbols.astype(kind)
    high[escaped] = rest
    return high


def _refuse_above(numbers: Integers, most: int) -> None:
    if len(numbers) and int(numbers.max()) > most:
        raise CodecError(f"a number is above {most}")


def _read_varints(data: NDArray[np.uint8], count: int) -> NDArray[np.int64]:
    """As many varints as there are, all at once: a stranger may send millions."""
    ends = np.flatnonzero(data < 0x80)
    if len(ends) != count or (ends[-1] + 1 if count else 0) != len(data):
        raise CodecError(f"{len(ends)} varints where {count} are wanted")
    if not count:
        return np.zeros(0, np.int64)
    starts = np.concatenate(([0], ends[:-1] + 1))
    sizes = ends - starts + 1
    if int(sizes.max()) > MOST_VARINT:
        raise CodecError("a varint does not end")
    shifts = 7 * (np.arange(len(data)) - np.repeat(starts, sizes))
    return np.add.reduceat((data & 0x7F).astype(np.int64) << shifts, starts)
