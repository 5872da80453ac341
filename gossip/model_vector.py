"""A vector as a model file, piece by piece, and back."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor

from gossip import model_file
from gossip.chunks import CHUNK
from gossip.errors import ModelError
from gossip.model_file import Header
from gossip.vector import Layout, hold


def about(layout: Layout, samples: int, node: str) -> dict[str, str]:
    """What a file says of its model."""
    return {"samples": str(samples), "layout": layout.hash.hex(), "id": node}


def write(layout: Layout, x: Tensor, about: dict[str, str]) -> Iterator[bytes]:
    """The bytes of a file; `x` becomes what the model can hold of it (see `gossip.vector.hold`).

    Raises ModelError for dtypes that a file cannot hold.
    """
    yield model_file.encode(layout.entries, about)
    hold(layout, x)
    at = 0
    for _, shape, name in layout.entries:
        start, at = at, at + prod(shape)
        for begin in range(start, at, CHUNK):
            piece = x[begin : min(begin + CHUNK, at)].cpu().to(getattr(torch, name))
            yield piece.view(torch.uint8).numpy().tobytes()


def check(layout: Layout, header: Header) -> None:
    """Raises ModelError, with the first differences, unless the file is of this layout."""
    parts = header.parts
    names = [name for name in layout.names if name in parts]
    known = set(names)
    names += [name for name in parts if name not in known]
    there = Layout(
        tuple(names),
        tuple(parts[name].shape for name in names),
        tuple(parts[name].dtype for name in names),
        layout.buffers,
    )
    if there != layout:
        difference = layout.difference(there)
        raise ModelError(f"it is of another layout than the model here: {difference}")


def read(layout: Layout, header: Header, data: bytearray) -> Tensor:
    """(n,) float32, of data that belong to a header that was checked."""
    x = torch.empty(layout.size)
    at = 0
    for name, shape, dtype in layout.entries:
        start, at = at, at + prod(shape)
        if at > start:
            values = torch.frombuffer(
                data,
                dtype=getattr(torch, dtype),
                count=at - start,
                offset=header.parts[name].start,
            )
            x[start:at] = values
    return x
