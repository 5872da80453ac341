"""The next reading of a machine's telemetry, from the sixteen before it.

In a daemon every node reads its own /proc while it trains (`path=live`): processor, load, memory
and network, twenty times a second, and what it was in the beginning is kept for testing. `path` is
otherwise a CSV of readings, a row each, of any columns; all nodes deal out its stretches. Without
either, MADE-UP machines: each has a rhythm, a base load and bursts of its own, so that one that has
seen few of them does not know the others'.

The error is that of the difference from the last reading: an r2 of 0 is "as it was", not the mean.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import lru_cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gossip.learner import Batches, TorchLearner
from models import metrics, partition, preprocess, seeding
from models.data import tables
from models.data.files import DataError
from models.data.telemetry import NAMES, Telemetry

WINDOW = 16  # readings that are seen
HIDDEN = 64
EVERY = 0.05  # seconds between live readings
HELD_OUT, KEPT = 48, 4096  # live readings: to test with, and at most to train on
MACHINES, READINGS = 20, 600  # made up

Series = NDArray[np.float32]
Read = Callable[[], Series]


def learner(
    shard: int = 0,
    shards: int = 1,
    seed: int = 0,
    path: str = "",
    lr: float = 0.2,
    momentum: float = 0.9,
    batch_size: int = 32,
    steps: int = 10,
    drift_correction: float | None = None,
) -> TorchLearner:
    """Make the learner of node `shard` of `shards`.

    Raises DataError without a /proc, and for a file that is not a table of numbers.
    """
    partition.check(shard, shards)
    order = seeding.order(seed, shard)
    batches: Batches | Live
    if path == "live":
        batches = Live(Telemetry().read, batch_size, order)
        test, width = windows([batches.held_out]), len(NAMES)
    else:
        training, testing = stretches(path) if path else made()
        if shards > len(training):
            raise DataError(f"{path}: {len(training)} stretches are too few for {shards} shards")
        mine = np.random.default_rng(seed).permutation(len(training))[shard::shards]
        batches = Batches(*windows([training[index] for index in mine]), batch_size, order)
        test, width = windows(testing), testing[0].shape[1]
    return TorchLearner(
        network(width, seed),
        batches,
        nn.functional.mse_loss,
        partial(torch.optim.SGD, lr=lr, momentum=momentum),
        steps=steps,
        test=test,
        metrics=metrics.regression,
        drift_correction=drift_correction,
        prepare=preprocess.numbers((WINDOW, width)),
    )


class Forecast(nn.Module):
    """How the next reading differs from the last, by how those before it do."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.read = nn.Linear(WINDOW * width, HIDDEN)
        self.say = nn.Linear(HIDDEN, width)

    def forward(self, window: Tensor) -> Tensor:
        """(N, WINDOW, width) to (N, width)."""
        before = window - window.mean(dim=1, keepdim=True)
        change: Tensor = self.say(self.read(before.flatten(1)).relu())
        return change


class Live:
    """Batches of windows of what is read meanwhile: each batch takes in what has come to be."""

    def __init__(
        self, read: Read, batch_size: int, generator: torch.Generator, every: float = EVERY
    ) -> None:
        self._read, self._batch_size, self._generator = read, batch_size, generator
        self._every = every  # seconds, above 0
        self._next = time.monotonic()
        self.held_out = np.stack([self._wait() for _ in range(HELD_OUT)])
        self._kept = [self._wait() for _ in range(WINDOW + 1)]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            while time.monotonic() >= self._next:
                self._kept = [*self._kept[1 - KEPT :], self._take()]
            inputs, targets = windows([np.stack(self._kept)])
            chosen = torch.randint(len(inputs), (self._batch_size,), generator=self._generator)
            yield inputs[chosen], targets[chosen]

    def _wait(self) -> Series:
        time.sleep(max(0.0, self._next - time.monotonic()))
        return self._take()

    def _take(self) -> Series:
        # After a pause (a laptop asleep, a long evaluation) nothing is made up for.
        self._next = max(self._next, time.monotonic() - self._every) + self._every
        return self._read()


def network(width: int, seed: int) -> nn.Module:
    """A forecast of `width` numbers; 4,420 parameters for four."""
    with seeding.weights(seed):
        return Forecast(width)


def windows(series: list[Series]) -> tuple[Tensor, Tensor]:
    """All windows (N, WINDOW, width) of several series, and the change that follows (N, width)."""
    seen, next_ = [], []
    for each in series:
        runs = np.lib.stride_tricks.sliding_window_view(each, WINDOW + 1, axis=0)
        seen.append(runs[:, :, :-1].transpose(0, 2, 1))
        next_.append(runs[:, :, -1] - runs[:, :, -2])
    return torch.from_numpy(np.concatenate(seen)), torch.from_numpy(np.concatenate(next_))


def stretches(path: str, pieces: int = 20) -> tuple[list[Series], list[Series]]:
    """A recorded series in pieces, every fifth for testing. Raises DataError if it is too short."""
    rows = tables.whole(path)
    columns = list(rows[0]) if rows else []
    if len(rows) < pieces * (WINDOW + 2):
        raise DataError(f"{path}: {len(rows)} rows are fewer than {pieces * (WINDOW + 2)}")
    found = tables.encoded(rows, columns, path)
    if not np.isfinite(found).all() or found.shape[1] != len(columns):
        raise DataError(f"{path}: holds a value that is no number")
    parts = np.array_split(found / np.maximum(np.abs(found).max(axis=0), 1e-6), pieces)
    return [part for at, part in enumerate(parts) if at % 5], parts[::5]


@lru_cache(1)
def made() -> tuple[list[Series], list[Series]]:
    """Made-up machines, (READINGS, 4) each; some to train on, and others' ends to test on."""
    machines = [_machine(np.random.default_rng(number)) for number in range(MACHINES)]
    return [each[: READINGS * 4 // 5] for each in machines], [
        each[READINGS * 4 // 5 :] for each in machines
    ]


def _machine(rng: np.random.Generator) -> Series:
    """Jobs that come in the machine's rhythm; load follows the processor, memory the jobs."""
    moments = np.arange(READINGS)
    period, width = rng.integers(5, 15), rng.uniform(0.2, 0.6)
    jobs = ((moments % period) < width * period).astype(np.float64) * rng.uniform(0.3, 0.8)
    wave = 0.15 * np.sin(2 * np.pi * moments / rng.uniform(20, 60))
    cpu = np.clip(rng.uniform(0.05, 0.2) + jobs + wave + rng.normal(0, 0.02, READINGS), 0, 1)
    load, memory = np.zeros(READINGS), np.zeros(READINGS)
    quick, slow = rng.uniform(0.1, 0.4), rng.uniform(0.02, 0.1)
    for at in range(1, READINGS):
        load[at] = load[at - 1] + quick * (cpu[at] - load[at - 1])
        memory[at] = memory[at - 1] + slow * (0.3 + 0.5 * jobs[at] - memory[at - 1])
    network = 0.4 * np.roll(cpu, int(rng.integers(1, 4))) + rng.normal(0, 0.02, READINGS)
    return np.stack([cpu, load, memory, network], axis=1).astype(np.float32)
