"""A model as a safetensors file: the header, and what two files differ in. Without PyTorch.

The format is that of `safetensors`: eight bytes that say how long the header is, the header (JSON:
of each tensor the dtype, the shape, and from where to where its bytes are), the bytes. Its
metadata, texts by name, hold here `samples`, `layout` (the hash) and `id` (of the node).

Only what models are shared in is read: four floating dtypes, each tensor's bytes where the shape
says, none twice. Everything else is refused, so a header cannot make a reader allocate or divide
what is not there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossip.errors import ModelError

DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
NAMES = {code: name for name, code in DTYPES.items()}
WIDTH = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}  # bytes
SHA256 = "X-Content-SHA256"  # the HTTP header that says what a file hashes to
MAX_HEADER = 4 << 20  # bytes; a layout is at most 1 MiB, and a header says a little more

MOST_NUMBERS = 18  # of a tensor: 16 sides of its shape, and its place
MOST = 1 << 40  # of any of them

Entry = tuple[str, tuple[int, ...], str]  # name, shape, dtype: as in a layout


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor of a file."""

    shape: tuple[int, ...]
    dtype: str
    start: int  # in the data, bytes
    stop: int

    @property
    def count(self) -> int:
        """How many numbers."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says it holds."""

    parts: dict[str, Part]
    about: dict[str, str]

    @property
    def size(self) -> int:
        """Bytes of data after the header."""
        return sum(part.stop - part.start for part in self.parts.values())


def encode(entries: Iterable[Entry], about: dict[str, str]) -> bytes:
    """The first bytes of a file whose tensors follow one another in this order."""
    header: dict[str, Any] = {"__metadata__": about}
    at = 0
    for name, shape, dtype in entries:
        if dtype not in DTYPES:
            raise ModelError(
                f"{name} is {dtype}, which no model file holds; use {', '.join(DTYPES)}"
            )
        start, at = at, at + WIDTH[dtype] * prod(shape)
        header[name] = {"dtype": DTYPES[dtype], "shape": shape, "data_offsets": [start, at]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def length(first: bytes) -> int:
    """How long the header is, from the first eight bytes. Raises ModelError."""
    size = int.from_bytes(first, "little")
    if len(first) < 8 or not 2 <= size <= MAX_HEADER:
        raise ModelError("it is not a safetensors file, or cut off")
    return size


def decode(text: bytes) -> Header:
    """Read a header. Raises only ModelError, whatever the bytes."""
    try:
        raw = json.loads(text)
        about = raw.pop("__metadata__", {})
        parts = {name: _part(name, entry) for name, entry in raw.items()}
        about = {str(key): str(value) for key, value in about.items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"its header cannot be read: {error}") from None
    at = 0
    for part in sorted(parts.values(), key=lambda part: (part.start, part.stop)):
        if part.start != at:
            raise ModelError("its tensors overlap or leave gaps")
        at = part.stop
    return Header(parts, about)


def _part(name: str, entry: Any) -> Part:
    code, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if code not in NAMES:
        raise ModelError(f"{name!r} is {code}; models are shared as {', '.join(NAMES)}")
    numbers = (*shape, start, stop)
    if len(numbers) > MOST_NUMBERS or any(
        type(number) is not int or not 0 <= number <= MOST for number in numbers
    ):
        raise ModelError(f"{name!r} has no shape or no place")
    if stop - start != WIDTH[NAMES[code]] * prod(shape):
        raise ModelError(f"{name!r} has not as many bytes as its shape {shape} says")
    return Part(tuple(shape), NAMES[code], start, stop)


class ModelFile:
    """A model in memory or mapped from a file. Raises ModelError if it is none.

    Args:
        content: all bytes.
        name: for messages.
    """

    def __init__(self, content: NDArray[np.uint8], name: str) -> None:
        self.name = name
        try:
            begin = 8 + length(content[:8].tobytes())
            self._header = decode(content[8:begin].tobytes())
            if len(content) != begin + self._header.size:
                raise ModelError("it is cut off, or longer than its header says")
        except ModelError as error:
            raise ModelError(f"{name} is no model: {error}; gossip model pull writes one") from None
        self._data = content[begin:]

    @classmethod
    def open(cls, path: Path) -> ModelFile:
        """Map a file. Raises ModelError if it cannot be read or is no model."""
        try:
            content = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, "u1")
        except OSError as error:
            raise ModelError(
                f"cannot read {path}: {error.strerror}; is it the right file?"
            ) from None
        return cls(content, str(path))

    @property
    def parts(self) -> dict[str, Part]:
        """The tensors, in the file's order."""
        return self._header.parts

    @property
    def about(self) -> dict[str, str]:
        """Samples, hash of the layout, id of the node; of other files whatever they say."""
        return self._header.about

    def values(self, name: str) -> NDArray[np.float64]:
        """All values of a tensor, (n,)."""
        part = self.parts[name]
        data = self._data[part.start : part.stop]
        if part.dtype == "bfloat16":  # the upper half of a float32
            upper = data.view("<u2").astype("<u4") << 16
            return upper.view("<f4").astype(np.float64)
        return data.view(np.dtype(part.dtype).newbyteorder("<")).astype(np.float64)


@dataclass(frozen=True, slots=True)
class Difference:
    """How far a layer is from the same layer of another model."""

    layer: str
    largest: float  # of |a - b|; NaN where either holds one
    relative: float  # |a - b| / |a|, Euclidean; 0 for two zeros, inf where only a is zero


def differences(a: ModelFile, b: ModelFile) -> list[Difference]:
    """Layer by layer, in the order of `a`. Raises ModelError if the layers are not the same."""
    for name in dict.fromkeys((*a.parts, *b.parts)):
        for one, other in ((a, b), (b, a)):
            if name not in one.parts:
                raise ModelError(f"{name!r} is in {other.name} only; only equal layouts compare")
        if a.parts[name].shape != b.parts[name].shape:
            shapes = [list(it.parts[name].shape) for it in (a, b)]
            raise ModelError(
                f"{name!r} is {shapes[0]} in {a.name} and {shapes[1]} in {b.name}; only equal "
                "layouts compare"
            )
    return [_difference(name, a.values(name), b.values(name)) for name in a.parts]


def _difference(name: str, a: NDArray[np.float64], b: NDArray[np.float64]) -> Difference:
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        apart = np.abs(a - b)
    distance, size = float(np.linalg.norm(apart)), float(np.linalg.norm(a))
    relative = 0.0 if distance == 0 else distance / size if size else float("inf")
    return Difference(name, float(apart.max(initial=0.0)), relative)
