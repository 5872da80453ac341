"""Who computes stacks of training rounds, while the events of a simulation go on.

Events have one order and one process. A stack needs nothing of them, so others may compute it: by
default threads, for PyTorch's kernels do not hold the interpreter's lock. They take a stack each,
and one core each, and need not wait for one another, as the threads of one kernel do: on a machine
that does other things as well, that made kernels ten times slower (measured).
"""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch

from sims.stack import Outcome, Stack, compute


class Engine(Protocol):
    """Computes stacks."""

    def submit(self, stack: Stack) -> Future[Outcome]:
        """Begin, or put it in a queue. What `compute` raises, the future raises."""
        ...


class Here:
    """Computes each at once, in the thread that asks."""

    def submit(self, stack: Stack) -> Future[Outcome]:
        """Return when it is done."""
        done: Future[Outcome] = Future()
        try:
            done.set_result(compute(stack))
        except RuntimeError as error:
            done.set_exception(error)
        return done


class Threads:
    """Other threads of this process. The interpreter ends when they have ended."""

    def __init__(self, workers: int) -> None:
        self._pool = ThreadPoolExecutor(workers, "stack", torch.set_num_threads, (1,))

    def submit(self, stack: Stack) -> Future[Outcome]:
        """The first thread that is free takes it."""
        return self._pool.submit(compute, stack)


def local(workers: int | None = None) -> Engine:
    """So many threads; None: one less than there are cores. None left: no thread."""
    if workers is None:
        workers = len(os.sched_getaffinity(0)) - 1
    return Threads(workers) if workers > 0 else Here()
