"""Large vectors in chunks that stay in the cache, by as many threads as PyTorch may use.

What is computed for a chunk does not depend on who computes it, and results come back in the order
of chunks, so nothing depends on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import TypeVar

import torch

T = TypeVar("T")

CHUNK = 1 << 17  # coordinates at a time, so that what is computed of them stays in the cache
SPAN = 1 << 19  # coordinates a job; below, handing it to another thread costs more than it gains


def each_chunk(work: Callable[[int], T], size: int) -> list[T]:
    """What `work` returns for the start of each chunk, in order; one empty chunk if size is 0."""

    if size <= CHUNK:
        return [work(0)]

    def span(first: int) -> list[T]:
        return [work(start) for start in range(first, max(1, min(first + SPAN, size)), CHUNK)]

    jobs = [partial(span, first) for first in range(0, max(1, size), SPAN)]
    return list(chain.from_iterable(parallel(jobs, size)))


def parallel(jobs: Sequence[Callable[[], T]], size: int) -> list[T]:
    """What the jobs return, in order; in threads if they work on many coordinates."""
    if size < 2 * SPAN or (threads := min(torch.get_num_threads(), len(jobs), size // SPAN)) <= 1:
        return [job() for job in jobs]
    with ThreadPoolExecutor(threads) as pool:
        return [done.result() for done in [pool.submit(job) for job in jobs]]
