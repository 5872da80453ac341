"""Handwritten digits: 1,797 images of 8 x 8 pixels, from scikit-learn, without a download.

Copy this file to start your own: whatever it is called, `learner(shard, shards, seed, ...)` returns
the learner of one node. All nodes must start from the same weights, so those depend on the seed
alone; the order of the samples depends on the shard as well. The test set is the same everywhere.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gossip.learner import Batches, TorchLearner
from models import metrics, partition, preprocess, seeding
from models.answers import labelled

BRIGHTEST = 16  # the value of a white pixel
TEST_EVERY = 5  # every fifth image of each class is a test image: 20 %


def learner(
    shard: int = 0,
    shards: int = 1,
    seed: int = 0,
    split: Literal["iid", "dirichlet", "shards"] = "iid",
    alpha: float = 0.3,
    classes: int = 2,
    model: Literal["mlp", "cnn"] = "mlp",
    lr: float = 0.03,
    momentum: float = 0.9,
    batch_size: int = 32,
    steps: int = 10,
    drift_correction: float | None = None,
) -> TorchLearner:
    """Make the learner of node `shard` of `shards`.

    `split` says how the images are divided: evenly (`iid`), in mixtures skewed by `alpha`
    (`dirichlet`), or `classes` classes to each node (`shards`). Raises ValueError when the images
    cannot be divided so.
    """
    partition.check(shard, shards)
    images, labels = load_digits()
    testing = test_images(labels)
    train_images, train_labels = images[~testing], labels[~testing]
    mine = divide(train_labels, shards, seed, split, alpha, classes)[shard]
    inputs, targets = torch.tensor(train_images[mine]), torch.tensor(train_labels[mine])
    return TorchLearner(
        network(model, seed),
        Batches(inputs, targets, batch_size, seeding.order(seed, shard)),
        nn.functional.cross_entropy,
        partial(torch.optim.SGD, lr=lr, momentum=momentum),
        steps=steps,
        test=(torch.tensor(images[testing]), torch.tensor(labels[testing])),
        metrics=metrics.classification,
        drift_correction=drift_correction,
        prepare=prepare,
        answer=labelled("0123456789"),
    )


def network(model: Literal["mlp", "cnn"], seed: int) -> nn.Module:
    """A classifier of (N, 8, 8) images whose weights depend on the seed alone."""
    with seeding.weights(seed):
        match model:
            case "mlp":  # 4,810 parameters
                return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
            case "cnn":  # 6,090 parameters
                return nn.Sequential(
                    nn.Unflatten(1, (1, 8)),  # (N, 1, 8, 8)
                    nn.Conv2d(1, 16, 3, padding=1),
                    nn.ReLU(),
                    nn.MaxPool2d(2),  # (N, 16, 4, 4)
                    nn.Conv2d(16, 32, 3, padding=1),
                    nn.ReLU(),
                    nn.MaxPool2d(2),  # (N, 32, 2, 2)
                    nn.Flatten(),
                    nn.Linear(128, 10),
                )
        raise ValueError(f"model must be 'mlp' or 'cnn', not {model!r}")


def prepare(raw: Any) -> Tensor:
    """An image of 8 x 8 numbers from 0 to BRIGHTEST."""
    return preprocess.numbers((8, 8))(raw) / BRIGHTEST


def divide(
    labels: NDArray[np.int64], shards: int, seed: int, split: str, alpha: float, classes: int
) -> list[partition.Indices]:
    """The indices of each shard's images."""
    match split:
        case "iid":
            return partition.iid(labels, shards, seed)
        case "dirichlet":
            return partition.dirichlet(labels, shards, alpha, seed)
        case "shards":
            return partition.by_class(labels, shards, classes, seed)
    raise ValueError(f"split must be 'iid', 'dirichlet' or 'shards', not {split!r}")


@cache  # a simulation makes a thousand learners
def load_digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """All images, (1797, 8, 8) in [0, 1], and their labels."""
    try:
        from sklearn import datasets  # here, not above: it takes a second that others need not wait
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"models.digits needs scikit-learn ({error}): pip install 'gossip-learning[models]'",
            name=error.name,
        ) from error
    data = datasets.load_digits()
    return (data.images / BRIGHTEST).astype(np.float32), data.target.astype(np.int64)


def test_images(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which images are for testing: as many of each class as its share, whoever asks."""
    testing = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        testing[np.flatnonzero(labels == label)[::TEST_EVERY]] = True
    return testing
