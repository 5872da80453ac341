"""What is random in a learner: its first weights, the same everywhere; its order, its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def weights(seed: int) -> Iterator[None]:
    """Draw the weights of what is made inside from the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def order(seed: int, shard: int) -> torch.Generator:
    """For the order of a node's samples."""
    return torch.Generator().manual_seed((seed << 20) + shard)
