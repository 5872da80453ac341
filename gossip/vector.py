"""A module as one flat float32 vector.

What is in the vector: first all floating parameters, trainable or frozen, in the module's order;
then all floating buffers (BatchNorm's running statistics; persistent ones only, because the others
are derived). Tied weights are there once. Parameters are compressed against each other; buffers,
which live on scales of their own and are averages already, are averaged densely and seldom (see
`gossip.body`). What stays local: integer and boolean buffers (BatchNorm's batch counter), what a
`Selection` leaves out, and everything that is not in the module's state.

Numbers travel as float32. Half precision becomes float32 exactly and is rounded when it is loaded;
double precision is rounded to float32 first. Complex tensors are refused. The vector knows more
than a model in half precision can hold; `hold` says what such a model holds of it.

Names lose the prefixes of wrappers: `torch.compile`'s `_orig_mod.` anywhere and `DataParallel`'s
`module.` at the front, so that a compiled model and a plain one are of one layout.
"""

from __future__ import annotations

import difflib
import fnmatch
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import accumulate
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from gossip.chunks import CHUNK
from gossip.errors import LayoutError

MAX_ENCODED = 1 << 20  # bytes
MAX_TENSORS = 1 << 14
MAX_DIMENSIONS = 16
MAX_NAME = 512  # characters
MAX_SIZE = 1 << 31  # coordinates
SHOWN = 3  # differences between two layouts; more would bury the first

VARIANCE = "running_var"  # what the buffer is called in PyTorch's norms
HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}

Entry = tuple[str, tuple[int, ...], str]
Named = list[tuple[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which tensors are shared, by patterns over the layout's names; all others stay local.

    Patterns are those of `fnmatch`, case-sensitive, and match whole names: `head.*`, `*lora_*`. A
    tensor of several names (tied weights) is meant by each of them.
    """

    share: tuple[str, ...] = ("*",)
    keep: tuple[str, ...] = ()  # stays local, whatever `share` says

    @classmethod
    def of(cls, share: Sequence[str] | None, keep: Sequence[str]) -> Selection:
        """From lists; a `share` of None is everything. Raises TypeError for a lone text."""
        for name, patterns in (("share", share), ("keep", keep)):
            if isinstance(patterns, str):
                raise TypeError(f"{name} is a list of patterns; write [{patterns!r}]")
        return cls(("*",) if share is None else tuple(share), tuple(keep))

    def takes(self, names: Iterable[str]) -> bool:
        """Whether the tensor of these names is shared."""
        names = list(names)
        return _match(names, self.share) and not _match(names, self.keep)

    def check(self, names: Sequence[str]) -> None:
        """Raises LayoutError for a pattern that matches none of the names."""
        for setting, patterns in (("share", self.share), ("keep", self.keep)):
            for pattern in patterns:
                if not _match(names, [pattern]) and pattern != "*":
                    raise LayoutError(f"{setting}: {pattern!r} {_nearest(pattern, names)}")


ALL = Selection()


@dataclass(frozen=True)
class Layout:
    """What the coordinates of a vector mean; equal layouts make models compatible."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    buffers: int = 0  # so many tensors, the last ones, are buffers

    @cached_property
    def parameters(self) -> int:
        """How many coordinates are parameters; they come first."""
        return sum(prod(shape) for shape in self.shapes[: len(self.shapes) - self.buffers])

    @cached_property
    def half(self) -> tuple[tuple[int, int, torch.dtype], ...]:
        """From where to where the model is in half precision, and which."""
        runs: list[tuple[int, int, torch.dtype]] = []
        at = 0
        for _, shape, name in self.entries:
            start, at = at, at + prod(shape)
            if name not in HALF:
                continue
            if runs and runs[-1][1:] == (start, HALF[name]):
                start = runs.pop()[0]
            runs.append((start, at, HALF[name]))
        return tuple(runs)

    @cached_property
    def variances(self) -> tuple[tuple[int, int], ...]:
        """From where to where there are BatchNorm's running variances."""
        ends = [*accumulate(map(prod, self.shapes), initial=0)]
        return tuple(
            (ends[at], ends[at + 1])
            for at, name in enumerate(self.names)
            if name.endswith(VARIANCE) and at >= len(self.names) - self.buffers
        )

    @cached_property
    def size(self) -> int:
        """How many coordinates."""
        return sum(prod(shape) for shape in self.shapes)

    @cached_property
    def hash(self) -> bytes:
        """SHA-256 of the encoded form, 32 bytes."""
        return sha256(self.encode()).digest()

    @property
    def entries(self) -> Iterator[Entry]:
        """Name, shape and dtype of one tensor after another."""
        return zip(self.names, self.shapes, self.dtypes, strict=True)

    def encode(self) -> bytes:
        """As bytes; equal layouts give equal bytes."""
        listed = [*map(list, self.entries), self.buffers]
        return json.dumps(listed, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> Layout:
        """Read it back. Raises only LayoutError, whatever the bytes."""
        if len(data) > MAX_ENCODED:
            raise LayoutError(f"a layout of {len(data)} bytes is above {MAX_ENCODED}")
        # Empty lists take twenty times their size once they are unpacked.
        if data.count(b"[") + data.count(b"{") > 1 + MAX_TENSORS * 2:
            raise LayoutError(f"a layout lists 1 to {MAX_TENSORS} tensors")
        try:
            raw = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise LayoutError(f"not a layout: {error}") from None
        if type(raw) is not list or not 1 < len(raw) <= MAX_TENSORS + 1:
            raise LayoutError(f"a layout lists 1 to {MAX_TENSORS} tensors")
        *tensors, buffers = raw
        if type(buffers) is not int or not 0 <= buffers < len(tensors):
            raise LayoutError("a layout ends with how many of its tensors are buffers, not all")
        names, shapes, dtypes = zip(*map(_read_entry, tensors), strict=True)
        layout = cls(names, shapes, dtypes, buffers)
        if layout.size > MAX_SIZE:
            raise LayoutError(f"a layout of {layout.size} coordinates is above {MAX_SIZE}")
        return layout

    def difference(self, other: Layout) -> str:
        """How two layouts differ, for people: the first differences, each with its layer."""
        here, there = ({entry[0]: entry for entry in side.entries} for side in (self, other))
        found = []
        for name in dict.fromkeys((*here, *there)):
            if name not in there:
                found.append(f"{_printable(name)} exists only here")
            elif name not in here:
                found.append(f"{_printable(name)} exists only there")
            elif here[name] != there[name]:
                mine, theirs = _describe(here[name]), _describe(there[name])
                found.append(f"{_printable(name)} is {mine} here and {theirs} there")
        if not found:
            return "nothing" if self == other else "the same tensors in another order or role"
        more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        return "; ".join(found[:SHOWN]) + more


def layout(module: nn.Module, selection: Selection = ALL) -> Layout:
    """The layout of what is shared of a module. Raises LayoutError if it cannot be one vector."""
    selection.check([name for names, _ in _floating(module) for name in names])
    parameters, buffers = _tensors(module, selection)
    for name, tensor in (*parameters, *buffers):
        _refuse_unusable(name, tensor)
    if not any(tensor.numel() for _, tensor in parameters):
        which = "" if selection == ALL else f" with share={selection.share}, keep={selection.keep}"
        raise LayoutError(f"{type(module).__name__} has no floating parameters to share{which}")
    tensors = (*parameters, *buffers)
    return Layout(
        tuple(name for name, _ in tensors),
        tuple(tuple(tensor.shape) for _, tensor in tensors),
        tuple(str(tensor.dtype).removeprefix("torch.") for _, tensor in tensors),
        len(buffers),
    )


def flatten(module: nn.Module, out: Tensor | None = None, selection: Selection = ALL) -> Tensor:
    """A copy of the module's values, (n,) float32: into `out`, or a new one on the CPU."""
    size = sum(tensor.numel() for _, tensor in _all_tensors(module, selection))
    vector = torch.empty(size) if out is None else out
    for _, tensor, values in _beside(module, vector, selection):
        values.copy_(tensor)
    return vector


def load(module: nn.Module, vector: Tensor, selection: Selection = ALL) -> None:
    """Set the module's values, in place, from (n,) float32."""
    for _, tensor, values in _beside(module, vector, selection):
        _set(tensor, values)


def add(module: nn.Module, change: Tensor, selection: Selection = ALL) -> None:
    """Add (n,) float32 to the module's values, in place.

    Afterwards `change` is what the values would be if the model held float32, so a change too small
    for half precision is not lost: `hold` of it is what the model holds.
    """
    for name, tensor, values in _beside(module, change, selection):
        values.add_(tensor.to(values.device))
        _set(tensor, values)
        if name.endswith(VARIANCE):
            tensor.clamp_(min=0)


def hold(layout: Layout, vector: Tensor) -> None:
    """Change (n,) float32, in place, to what a model of this layout can hold of it.

    Half precision is rounded, and a variance is never below zero, where quantised differences may
    have pushed it.
    """
    for start, stop, dtype in layout.half:
        for at in range(start, stop, CHUNK):
            piece = vector[at : min(at + CHUNK, stop)]
            piece.copy_(_rounded(piece, dtype))
    for start, stop in layout.variances:
        vector[start:stop].clamp_(min=0)


def local(module: nn.Module, selection: Selection = ALL) -> Named:
    """What of the module's state is not shared, by its own names; the tensors themselves."""
    shared = {id(tensor) for _, tensor in _all_tensors(module, selection)}
    return [
        (name, value)
        for name, value in module.state_dict(keep_vars=True).items()
        if isinstance(value, Tensor) and id(value) not in shared
    ]


def first_not_finite(layout: Layout, vector: Tensor) -> str | None:
    """The name of the first tensor in which `vector` holds NaN or infinity."""
    at = 0
    for name, shape, _ in layout.entries:
        size = prod(shape)
        if not bool(torch.isfinite(vector[at : at + size]).all()):
            return name
        at += size
    return None


def _rounded(values: Tensor, dtype: torch.dtype) -> Tensor:
    """To the nearest, and never up to infinity."""
    most = torch.finfo(dtype).max
    return values.clamp(-most, most).to(dtype)


def _set(tensor: Tensor, values: Tensor) -> None:
    tensor.copy_(_rounded(values, tensor.dtype) if tensor.dtype in HALF.values() else values)


def _beside(
    module: nn.Module, vector: Tensor, selection: Selection
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Each tensor's name and values, and the part of the vector that is its own, in its shape."""
    tensors = _all_tensors(module, selection)
    size = sum(tensor.numel() for _, tensor in tensors)
    if vector.shape != (size,):
        raise ValueError(f"the model has {size} coordinates, not {tuple(vector.shape)}")
    at = 0
    for name, tensor in tensors:
        start, at = at, at + tensor.numel()
        yield name, tensor.detach(), vector[start:at].view(tensor.shape)


def _all_tensors(module: nn.Module, selection: Selection) -> Named:
    parameters, buffers = _tensors(module, selection)
    return parameters + buffers


def _tensors(module: nn.Module, selection: Selection) -> tuple[Named, Named]:
    """Parameters and buffers that are shared, each once, in the module's order."""
    parameters: Named = []
    buffers: Named = []
    for names, tensor in _floating(module):
        if selection.takes(names):
            kind = parameters if isinstance(tensor, nn.Parameter) else buffers
            kind.append((names[0], tensor))
    return parameters, buffers


def _floating(module: nn.Module) -> list[tuple[list[str], Tensor]]:
    """What is no integer of the module's state, with all its names, the module's own first."""
    persistent = module.state_dict(keep_vars=True).keys()
    named: Named = [*module.named_parameters(remove_duplicate=False)]
    for name, buffer in module.named_buffers(remove_duplicate=False):
        if name in persistent:
            named.append((name, buffer))
    found: dict[int, tuple[list[str], Tensor]] = {}
    for name, tensor in named:
        if tensor.is_floating_point() or tensor.is_complex():
            plain = name.replace("_orig_mod.", "").removeprefix("module.")
            found.setdefault(id(tensor), ([], tensor))[0].append(plain)
    return list(found.values())


def _refuse_unusable(name: str, tensor: Tensor) -> None:
    if tensor.is_complex():
        raise LayoutError(f"{name} is complex; only real models can be shared")
    if nn.parameter.is_lazy(tensor):
        raise LayoutError(f"{name} has no shape yet; run one batch through the model first")
    if tensor.is_meta:
        raise LayoutError(f"{name} has no values (it is on the meta device); load the model")


def _match(names: Sequence[str], patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns for name in names)


def _nearest(pattern: str, names: Sequence[str]) -> str:
    """Why a pattern does nothing, with the names that may have been meant."""
    inside = [name for name in names if fnmatch.fnmatchcase(name, f"*{pattern}*")]
    if inside:
        return f"matches no whole name; '*{pattern}*' would match {', '.join(inside[:SHOWN])}"
    near = difflib.get_close_matches(pattern, names, n=SHOWN, cutoff=0) or ["nothing"]
    return f"matches no name; the nearest are {', '.join(near)}"


def _read_entry(raw: Any) -> Entry:
    match raw:
        case [str(name), list(shape), str(dtype)] if len(name) <= MAX_NAME and len(dtype) <= 16:
            if len(shape) <= MAX_DIMENSIONS and all(
                type(side) is int and 0 <= side <= MAX_SIZE for side in shape
            ):
                return name, tuple(shape), dtype
    raise LayoutError("a tensor of a layout is a name, a shape and a dtype")


def _describe(entry: Entry) -> str:
    _, shape, dtype = entry
    return f"{_printable(dtype)} {list(shape)}"


def _printable(text: str) -> str:
    """A peer's text, safe for a terminal and a log line."""
    shown = "".join(character if character.isprintable() else "?" for character in text)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
