"""Images: a small ResNet or a perceptron, on made-up ones or on files.

`path` is a directory with the files of MNIST and its kin (IDX), with the batches of CIFAR, or with
a directory of images for each class. Without one, MADE-UP images: ten classes of 8 x 8 pixels, as
many samples as wanted. Each class has a few prototypes, smooth random patterns. A sample is one of
them, moved by up to a pixel each way, of random contrast, mixed with a prototype of any class,
under noise. A perceptron of 6,010 parameters gets 97 of 100 right; the 400 samples of a node of 16
teach it about 80.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gossip.learner import Batches, TorchLearner
from models import metrics, partition, preprocess, seeding
from models.answers import labelled
from models.data import cifar, folders, idx
from models.data.files import DataError, matching
from models.digits import divide, test_images

CLASSES, SIDE, PROTOTYPES = 10, 8, 2
TRAINING, TESTING = 6400, 2000
CLUTTER = 0.25  # share of another prototype in an image
NOISE = 0.3  # standard deviation; prototypes have one of 1
DATA_SEED = 20  # one data set for all runs; its division and the weights depend on the run's seed
RESIZED = 32  # pixels a side, of images in directories

Images = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Data:
    """Images (N, channels, side, side), or (N, pixels) if made up, and what they show."""

    images: Images
    labels: Labels
    testing: NDArray[np.bool_]
    classes: tuple[str, ...]


def learner(
    shard: int = 0,
    shards: int = 1,
    seed: int = 0,
    path: str = "",
    split: Literal["iid", "dirichlet", "shards"] = "iid",
    alpha: float = 0.3,
    classes: int = 2,
    model: Literal["mlp", "resnet"] = "mlp",
    norm: Literal["group", "batch"] = "group",
    augment: bool = False,
    lr: float = 0.03,
    momentum: float = 0.9,
    batch_size: int = 32,
    steps: int = 10,
    drift_correction: float | None = None,
) -> TorchLearner:
    """Make the learner of node `shard` of `shards`; the options are those of `models.digits`.

    `augment` moves and mirrors images in training, where they come from files. All nodes must say
    the same. Raises DataError for what is wrong in a file.
    """
    partition.check(shard, shards)
    data = read(path) if path else made()
    images, labels = (torch.from_numpy(part) for part in (data.images, data.labels))
    net = network(tuple(images.shape[1:]), len(data.classes), model, norm, seed)
    kept = np.flatnonzero(~data.testing)
    mine = kept[divide(data.labels[kept], shards, seed, split, alpha, classes)[shard]]
    return TorchLearner(
        nn.Sequential(preprocess.Augment(), net) if augment and images.ndim == 4 else net,
        Batches(images[mine], labels[mine], batch_size, seeding.order(seed, shard)),
        nn.functional.cross_entropy,
        partial(torch.optim.SGD, lr=lr, momentum=momentum),
        steps=steps,
        test=(images[data.testing], labels[data.testing]),
        metrics=metrics.classification,
        seed=(seed << 20) + shard if augment else None,
        drift_correction=drift_correction,
        prepare=preparing(tuple(images.shape[1:])),
        answer=labelled(data.classes),
    )


def network(
    shape: tuple[int, ...] = (SIDE * SIDE,),
    classes: int = CLASSES,
    model: Literal["mlp", "resnet"] = "mlp",
    norm: Literal["group", "batch"] = "group",
    seed: int = 0,
) -> nn.Module:
    """A classifier of images of one shape; the perceptron has 6,010 parameters if made up."""
    with seeding.weights(seed):
        if model == "mlp":
            pixels = int(np.prod(shape))
            return nn.Sequential(
                nn.Flatten(), nn.Linear(pixels, 80), nn.ReLU(), nn.Linear(80, classes)
            )
        channels, *sides = shape if len(shape) == 3 else (1, SIDE, SIDE)
        return nn.Sequential(
            nn.Unflatten(1, (1, SIDE, SIDE)) if len(shape) == 1 else nn.Identity(),
            nn.Conv2d(channels, 12, 3, padding=1, stride=2 if sides[0] > 16 else 1),
            Residual(12, 12, norm),
            Residual(12, 24, norm),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(24 * 4, classes),
        )


class Residual(nn.Module):
    """Two convolutions beside what goes past them, norms first (He et al., ECCV 2016)."""

    def __init__(self, inside: int, outside: int, norm: Literal["group", "batch"]) -> None:
        super().__init__()
        stride = 1 if inside == outside else 2
        self.first = nn.Sequential(
            _norm(inside, norm), nn.ReLU(), nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        )
        self.second = nn.Sequential(
            _norm(outside, norm), nn.ReLU(), nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        )
        self.past = (
            nn.Identity() if stride == 1 else nn.Conv2d(inside, outside, 1, stride, bias=False)
        )

    def forward(self, images: Tensor) -> Tensor:
        """(N, inside, H, W) to (N, outside, H / stride, W / stride)."""
        result: Tensor = self.past(images) + self.second(self.first(images))
        return result


def preparing(shape: tuple[int, ...]) -> Any:
    """A reader of one input: a file's bytes (PNG, JPEG, ...), or nested lists of numbers."""
    numbers = preprocess.numbers(shape)

    def prepare(raw: Any) -> Tensor:
        if not isinstance(raw, bytes):
            return numbers(raw)
        if len(shape) != 3:
            raise ValueError(f"an input is {shape[0]} numbers: made-up images come in no file")
        return torch.from_numpy(folders.picture_of(shape[1], shape[0])(raw))

    return prepare


@lru_cache(2)
def read(path: str) -> Data:
    """Images in files; of directories every fifth of a class is for testing."""
    if matching(path, "*-ubyte*"):
        return _joined(*(_idx(path, part) for part in ("train", "t10k")))
    batches = matching(path, "data_batch_*") or matching(path, "train*")
    tests = matching(path, "test_batch*") or matching(path, "test*")
    if batches and tests:
        return _joined(*(_cifar(part) for part in (batches, tests)))
    files = folders.files(path, folders.IMAGES)
    picture = folders.picture(RESIZED, 3)
    images = np.stack([picture(place) for place in files.places])
    testing = test_images(files.labels)
    if testing.all():
        raise DataError(f"{path}: one image of a class is too few: every fifth is for testing")
    return Data(images, files.labels, testing, files.classes)


@lru_cache(1)
def made() -> Data:
    """The made-up images."""
    images, labels = make_images()
    testing = np.arange(len(labels)) >= TRAINING
    return Data(images, labels, testing, tuple(map(str, range(CLASSES))))


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


def _norm(channels: int, norm: Literal["group", "batch"]) -> nn.Module:
    return nn.GroupNorm(4, channels) if norm == "group" else nn.BatchNorm2d(channels)


def _idx(path: str, part: str) -> tuple[Images, Labels]:
    found = [matching(path, f"{part}-{kind}-*ubyte*") for kind in ("images", "labels")]
    if not all(found):
        raise DataError(f"{path}: lacks {part}-images-idx3-ubyte or {part}-labels-idx1-ubyte")
    images, labels = idx.images(found[0][0], found[1][0])
    return images[:, None], labels


def _cifar(places: list[str]) -> tuple[Images, Labels]:
    images, labels = zip(*map(cifar.read, places), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _joined(training: tuple[Images, Labels], testing: tuple[Images, Labels]) -> Data:
    images = np.concatenate([training[0], testing[0]])
    labels = np.concatenate([training[1], testing[1]])
    names = tuple(map(str, range(int(labels.max()) + 1)))
    return Data(images, labels, np.arange(len(labels)) >= len(training[1]), names)
