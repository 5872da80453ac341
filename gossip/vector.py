"""A module as one flat float32 vector.

What is in the vector, in the module's order: all floating parameters, trainable or frozen, then
all floating buffers (BatchNorm's running statistics; persistent ones only, because the others are
derived). Tied weights are there once. What stays local: integer and boolean buffers (BatchNorm's
batch counter), and everything that is not in the module's state.

Numbers travel as float32. Half precision becomes float32 exactly and is rounded when it is loaded;
double precision is rounded to float32 first. Complex tensors are refused.

Names lose the prefixes of wrappers: `torch.compile`'s `_orig_mod.` anywhere and `DataParallel`'s
`module.` at the front, so that a compiled model and a plain one are of one layout.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from gossip.errors import LayoutError

MAX_ENCODED = 1 << 20  # bytes
MAX_TENSORS = 1 << 14
MAX_DIMENSIONS = 16
MAX_NAME = 512  # characters
MAX_SIZE = 1 << 31  # coordinates
SHOWN = 3  # differences between two layouts; more would bury the first

Entry = tuple[str, tuple[int, ...], str]


@dataclass(frozen=True)
class Layout:
    """What the coordinates of a vector mean; equal layouts make models compatible."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]

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
        return json.dumps([list(entry) for entry in self.entries], separators=(",", ":")).encode()

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
        if type(raw) is not list or not 1 <= len(raw) <= MAX_TENSORS:
            raise LayoutError(f"a layout lists 1 to {MAX_TENSORS} tensors")
        entries = [_read_entry(entry) for entry in raw]
        layout = cls(*(tuple(column) for column in zip(*entries, strict=True)))
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
            return "nothing" if self == other else "the same tensors in another order"
        more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        return "; ".join(found[:SHOWN]) + more


def layout(module: nn.Module) -> Layout:
    """The layout of a module. Raises LayoutError if it cannot be one vector."""
    tensors = _tensors(module)
    names, shapes, dtypes = [], [], []
    for name, tensor in tensors.items():
        names.append(name)
        shapes.append(tuple(tensor.shape))
        dtypes.append(str(tensor.dtype).removeprefix("torch."))
    return Layout(tuple(names), tuple(shapes), tuple(dtypes))


def flatten(module: nn.Module, out: Tensor | None = None) -> Tensor:
    """A copy of the module's values, (n,) float32 on the CPU; into `out` if it is given."""
    tensors = _tensors(module)
    size = sum(tensor.numel() for tensor in tensors.values())
    vector = torch.empty(size) if out is None else out
    if vector.shape != (size,):
        raise ValueError(f"the model has {size} coordinates, `out` {tuple(vector.shape)}")
    at = 0
    for tensor in tensors.values():
        vector[at : at + tensor.numel()].view(tensor.shape).copy_(tensor.detach())
        at += tensor.numel()
    return vector


def load(module: nn.Module, vector: Tensor) -> None:
    """Set the module's values, in place, from (n,) float32."""
    tensors = _tensors(module)
    size = sum(tensor.numel() for tensor in tensors.values())
    if vector.shape != (size,):
        raise ValueError(f"the model has {size} coordinates, not {tuple(vector.shape)}")
    at = 0
    with torch.no_grad():
        for tensor in tensors.values():
            tensor.copy_(vector[at : at + tensor.numel()].view(tensor.shape))
            at += tensor.numel()


def first_not_finite(layout: Layout, vector: Tensor) -> str | None:
    """The name of the first tensor in which `vector` holds NaN or infinity."""
    at = 0
    for name, shape, _ in layout.entries:
        size = prod(shape)
        if not bool(torch.isfinite(vector[at : at + size]).all()):
            return name
        at += size
    return None


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """By name, each tensor once, in the module's order."""
    persistent = module.state_dict(keep_vars=True).keys()
    named: list[tuple[str, Tensor]] = [*module.named_parameters()]
    named += [(name, buffer) for name, buffer in module.named_buffers() if name in persistent]
    tensors: dict[str, Tensor] = {}
    for name, tensor in named:
        if tensor.is_complex():
            raise LayoutError(f"{name} is complex; only real models can be shared")
        if not tensor.is_floating_point():
            continue
        if nn.parameter.is_lazy(tensor):
            raise LayoutError(f"{name} has no shape yet; run one batch through the model first")
        if tensor.is_meta:
            raise LayoutError(f"{name} has no values (it is on the meta device); load the model")
        tensors[name.replace("_orig_mod.", "").removeprefix("module.")] = tensor
    if not tensors:
        raise LayoutError(f"{type(module).__name__} has no floating parameters to share")
    return tensors


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
