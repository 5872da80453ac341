"""Rows of a table: classification, or regression with a mean squared error.

scikit-learn's breast cancer and wine, with classes, and diabetes, with a number; or a CSV, JSON
lines or Parquet file (`path`), whose column `target` is to be told from the others. Whether its
values are classes or numbers is said by `classes`: their names, separated by commas.

How large values are and how far they spread is gossiped (`preprocess.Standardise`). Nodes differ in
their mixtures (classes, as Dirichlet shares) or in the range of the first column (regression).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from gossip.learner import Batches, TorchLearner
from models import metrics, partition, preprocess, seeding
from models.answers import labelled
from models.data import tables
from models.data.files import DataError

ALPHA = 0.5  # of the classes' shares; a guess
HIDDEN = 160
SPREAD = 100.0  # of diabetes' target

Data = Literal["breast-cancer", "wine", "diabetes"]


@dataclass(frozen=True, slots=True)
class Table:
    """Numbers (N, width), NaN where missing, and targets: classes (N,) or numbers (N, 1)."""

    columns: tuple[str, ...]
    inputs: Tensor
    targets: Tensor
    classes: tuple[str, ...]  # none: a regression
    scale: float = 1.0  # what the numbers were divided by


def learner(
    shard: int = 0,
    shards: int = 1,
    seed: int = 0,
    data: Data = "breast-cancer",
    path: str = "",
    target: str = "target",
    classes: str = "",
    scale: float = 1.0,
    lr: float = 0.02,
    momentum: float = 0.9,
    decay: float = 1e-3,
    batch_size: int = 16,
    steps: int = 10,
    drift_correction: float | None = None,
) -> TorchLearner:
    """Make the learner of node `shard` of `shards`. Raises DataError about a file.

    Where a file's target is a number, `scale` is about how far it spreads; the same on all nodes.
    """
    partition.check(shard, shards)
    table = read(path, target, classes, scale) if path else bundled(data)
    testing = np.arange(len(table.inputs)) % 5 == 0
    kept = np.flatnonzero(~testing)
    mine = torch.from_numpy(kept[_divide(table, kept, shards, seed)[shard]])
    own, labels = table.inputs[mine], table.targets[mine]
    return TorchLearner(
        network(own, len(table.classes), seed),
        Batches(own, labels, batch_size, seeding.order(seed, shard)),
        nn.functional.cross_entropy if table.classes else nn.functional.mse_loss,
        partial(torch.optim.SGD, lr=lr, momentum=momentum, weight_decay=decay),
        steps=steps,
        test=(table.inputs[testing], table.targets[testing]),
        metrics=metrics.classification if table.classes else partial(_measured, table.scale),
        drift_correction=drift_correction,
        prepare=preparing(table.columns),
        answer=labelled(table.classes) if table.classes else partial(_number, table.scale),
    )


def network(own: Tensor, classes: int, seed: int) -> nn.Module:
    """From rows (N, width), of which a node has its `own`, to scores, or to a number (N, 1)."""
    with seeding.weights(seed):
        return nn.Sequential(
            preprocess.Standardise(own),
            nn.Linear(own.shape[1], HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, classes or 1),
        )


def preparing(columns: tuple[str, ...]) -> Callable[[Any], Tensor]:
    """A reader of one row, {column: value}, as the network takes it, (width,)."""

    def prepare(raw: Any) -> Tensor:
        if not isinstance(raw, dict):
            raise ValueError(f"an input is an object with {', '.join(columns)}")
        return preprocess.symlog(torch.from_numpy(tables.encoded([raw], columns, "the input")))[0]

    return prepare


def read(path: str, target: str, classes: str, scale: float = 1.0) -> Table:
    """The table in a file."""
    if not scale > 0:
        raise ValueError(f"scale is a number above 0, not {scale}")
    rows = tables.whole(path)
    if not rows or target not in rows[0]:
        there = ", ".join(rows[0]) if rows else "no rows"
        raise DataError(f"{path}: has no column {target!r} to tell; it has {there}")
    columns = tuple(name for name in rows[0] if name != target)
    inputs = torch.from_numpy(tables.encoded(rows, columns, path))
    names = tuple(name.strip() for name in classes.split(",")) if classes else ()
    if not names:
        numbers = tables.encoded(rows, [target], path)
        if numbers.shape[1] > 1 or not np.isfinite(numbers).all():
            raise DataError(f"{path}: {target} is not a number in each row: name its classes=A,B")
        return Table(
            columns, preprocess.symlog(inputs), torch.from_numpy(numbers) / scale, (), scale
        )
    known = {name: index for index, name in enumerate(names)}
    for index, row in enumerate(rows, 1):
        if str(row.get(target)).strip() not in known:
            raise DataError(
                f"{path}: row {index}: {target} is {str(row.get(target))[:40]!r}, "
                f"which is none of {classes}"
            )
    targets = torch.tensor([known[str(row[target]).strip()] for row in rows])
    return Table(columns, preprocess.symlog(inputs), targets, names)


@lru_cache(3)
def bundled(data: Data) -> Table:
    """One of scikit-learn's, in an order drawn once."""
    try:
        from sklearn import datasets  # here, not above: it takes a second that others need not wait
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"models.tabular needs scikit-learn ({error}): pip install 'gossip-learning[models]'",
            name=error.name,
        ) from error
    loads = {
        "breast-cancer": datasets.load_breast_cancer,
        "wine": datasets.load_wine,
        "diabetes": partial(datasets.load_diabetes, scaled=False),
    }
    if data not in loads:
        raise ValueError(f"data must be one of {', '.join(loads)}, not {data!r}")
    found = loads[data]()
    order = np.random.default_rng(0).permutation(len(found.data))
    inputs = preprocess.symlog(torch.tensor(found.data[order], dtype=torch.float32))
    columns = tuple(map(str, found.feature_names))
    if data == "diabetes":
        numbers = torch.tensor(found.target[order, None] / SPREAD, dtype=torch.float32)
        return Table(columns, inputs, numbers, (), SPREAD)
    return Table(
        columns, inputs, torch.tensor(found.target[order]), tuple(map(str, found.target_names))
    )


def _divide(table: Table, kept: Any, shards: int, seed: int) -> list[partition.Indices]:
    if table.classes:
        return partition.dirichlet(table.targets[kept], shards, ALPHA, seed)
    return partition.by_feature(table.inputs[kept, 0].nan_to_num(), shards, seed)


def _measured(scale: float, outputs: Tensor, targets: Tensor) -> dict[str, float]:
    return metrics.regression(scale * outputs, scale * targets)


def _number(scale: float, output: Tensor) -> object:
    return round(scale * float(output[0]), 6)
