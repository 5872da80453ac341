"""Batches of anything that can be iterated, also of more than fits into memory.

A `Stream` is for data that are read as they are used: rows of a file, files of a directory, a
`torch.utils.data.Dataset`, a dataset of Hugging Face. It keeps `buffer` samples at a time and draws
the batches from them at random, so the order is the better mixed the larger the buffer is; sorted
files need one of the size of a class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]


class Stream:
    """Batches for `TorchLearner`, read again on every pass.

    `source` begins a pass; `sample` makes of one item an input and a target, anything that
    `torch.as_tensor` takes. Of `shards`, this is number `shard`: every so-many-th item. Raises
    ValueError for sizes below 1.
    """

    def __init__(
        self,
        source: Callable[[], Iterable[Any]],
        sample: Callable[[Any], tuple[Any, Any]],
        batch_size: int,
        generator: torch.Generator,
        *,
        buffer: int = 1024,
        shard: int = 0,
        shards: int = 1,
    ) -> None:
        if batch_size < 1 or buffer < batch_size:
            raise ValueError(
                f"batch_size must be at least 1 and buffer no less, not {batch_size} and {buffer}"
            )
        self._source, self._sample = source, sample
        self._batch_size, self._buffer = batch_size, buffer
        self._generator = generator
        self._shard, self._shards = shard, shards

    def __iter__(self) -> Iterator[Batch]:
        items = islice(iter(self._source()), self._shard, None, self._shards)
        held = list(islice(items, self._buffer))
        while held:
            size = min(self._batch_size, len(held))
            chosen = torch.randperm(len(held), generator=self._generator)[:size]
            batch = []
            for index in sorted(chosen.tolist(), reverse=True):
                held[index], held[-1] = held[-1], held[index]
                batch.append(self._sample(held.pop()))
            held += islice(items, size)
            inputs, targets = zip(*batch, strict=True)
            yield _stacked(inputs), _stacked(targets)


def items(dataset: Any) -> Callable[[], Iterable[Any]]:
    """The source of a `Stream` over a dataset object: one with a length, or one to iterate.

    A dataset with a length is any `torch.utils.data.Dataset` or Hugging Face `Dataset`; its items
    are tuples or dictionaries, as `sample` expects them. Raises TypeError for anything else.
    """
    if hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__"):
        return lambda: (dataset[index] for index in range(len(dataset)))
    if hasattr(dataset, "__iter__"):
        return lambda: dataset
    raise TypeError(f"{type(dataset).__name__} is no dataset: it has no items")


def _stacked(values: tuple[Any, ...]) -> Tensor:
    return torch.stack([torch.as_tensor(value) for value in values])
