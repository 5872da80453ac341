"""Made-up images: ten classes of 8 x 8 pixels, as many samples as wanted, without a download.

Each class has a few prototypes, smooth random patterns. A sample is one of them, moved by up to a
pixel each way, of random contrast, mixed with a prototype of any class, under noise. A network of
6,010 parameters gets 97 of 100 right; the 400 samples of a node of 16 teach it about 80.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from gossip.learner import Batches, TorchLearner
from models.digits import divide

CLASSES, SIDE, PROTOTYPES = 10, 8, 2
TRAINING, TESTING = 6400, 2000
CLUTTER = 0.25  # share of another prototype in an image
NOISE = 0.3  # standard deviation; prototypes have one of 1
DATA_SEED = 20  # one data set for all runs; its division and the weights depend on the run's seed

Images = NDArray[np.float32]
Labels = NDArray[np.int64]


def learner(
    shard: int = 0,
    shards: int = 1,
    seed: int = 0,
    split: Literal["iid", "dirichlet", "shards"] = "iid",
    alpha: float = 0.3,
    classes: int = 2,
    lr: float = 0.03,
    momentum: float = 0.9,
    batch_size: int = 32,
    steps: int = 10,
    drift_correction: float | None = None,
) -> TorchLearner:
    """Make the learner of node `shard` of `shards`; the options are those of `models.digits`."""
    if not 0 <= shard < shards:
        raise ValueError(f"shard must be 0 to {shards - 1} of {shards} shards, not {shard}")
    images, labels = make_images()
    training, testing = slice(0, TRAINING), slice(TRAINING, None)
    mine = divide(labels[training], shards, seed, split, alpha, classes)[shard]
    order = torch.Generator().manual_seed((seed << 20) + shard)
    return TorchLearner(
        network(seed),
        Batches(torch.tensor(images[mine]), torch.tensor(labels[mine]), batch_size, order),
        nn.functional.cross_entropy,
        partial(torch.optim.SGD, lr=lr, momentum=momentum),
        steps=steps,
        test=(torch.tensor(images[testing]), torch.tensor(labels[testing])),
        drift_correction=drift_correction,
    )


def network(seed: int) -> nn.Module:
    """A classifier of (N, 64) images whose weights depend on the seed alone; 6,010 parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return nn.Sequential(nn.Linear(SIDE * SIDE, 80), nn.ReLU(), nn.Linear(80, CLASSES))


@lru_cache(1)
def make_images() -> tuple[Images, Labels]:
    """All images, (TRAINING + TESTING, 64), and their labels, in random order."""
    rng = np.random.default_rng(DATA_SEED)
    size = TRAINING + TESTING
    prototypes = _smooth(rng.standard_normal((CLASSES, PROTOTYPES, SIDE, SIDE)))
    labels = rng.permutation(np.arange(size) % CLASSES)
    images = prototypes[labels, rng.integers(0, PROTOTYPES, size)]
    others = (rng.integers(0, CLASSES, size), rng.integers(0, PROTOTYPES, size))
    images = (1 - CLUTTER) * images + CLUTTER * prototypes[others]
    for axis in (1, 2):
        moves = rng.integers(-1, 2, size)
        for move in (-1, 1):
            images[moves == move] = np.roll(images[moves == move], move, axis)
    images *= rng.uniform(0.7, 1.3, (size, 1, 1))
    images += NOISE * rng.standard_normal(images.shape)
    return images.reshape(size, -1).astype(np.float32), labels.astype(np.int64)


def _smooth(patterns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each pixel the mean of its 3 x 3 surroundings, on a torus; then of mean 0 and variance 1."""
    for axis in (-1, -2):
        patterns = np.roll(patterns, 1, axis) + patterns + np.roll(patterns, -1, axis)
    patterns = patterns - patterns.mean(axis=(-1, -2), keepdims=True)
    smooth: NDArray[np.float64] = patterns / patterns.std(axis=(-1, -2), keepdims=True)
    return smooth
