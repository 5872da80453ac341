"""What a text is about: short descriptions of software packages, and the section each is filed in.

By default the local package index of Debian and its kin, split by maintainer: a natural split, in
which a team knows its own section and little of the others. Words fall into buckets; a small
network takes their presence. Any table with a text, a label and an owner does as well: `path` is a
CSV, JSON lines or Parquet file with columns `text`, `label` and `owner`.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gossip.learner import Batches, TorchLearner
from models import metrics, partition, preprocess, seeding
from models.answers import labelled
from models.data import packages, tables
from models.data.files import DataError

SECTIONS = ("database", "fonts", "games", "graphics", "mail", "net", "science", "sound", "web")
BUCKETS = 1024  # of words
MOST = 600  # packages of a section, so that none rules
OWNED = 30  # packages of a maintainer: those of a team are described alike

Texts = tuple[list[str], list[str], list[str]]  # texts, labels, owners


def learner(
    shard: int = 0,
    shards: int = 1,
    seed: int = 0,
    path: str = "",
    lr: float = 0.1,
    momentum: float = 0.9,
    batch_size: int = 32,
    steps: int = 10,
    drift_correction: float | None = None,
) -> TorchLearner:
    """Make the learner of node `shard` of `shards`; owners are dealt out.

    Raises DataError where there is no package index, and for a file that is not as said above.
    """
    partition.check(shard, shards)
    inputs, targets, names, owners = load(path)
    testing = np.array(preprocess.split(owners, 0)) == 2
    kept = np.flatnonzero(~testing)
    mine = kept[partition.by_key([owners[index] for index in kept], shards, seed)[shard]]
    return TorchLearner(
        network(len(names), seed),
        Batches(inputs[mine], targets[mine], batch_size, seeding.order(seed, shard)),
        nn.functional.cross_entropy,
        partial(torch.optim.SGD, lr=lr, momentum=momentum),
        steps=steps,
        test=(inputs[testing], targets[testing]),
        metrics=metrics.classification,
        drift_correction=drift_correction,
        prepare=prepare,
        answer=labelled(names),
    )


def network(topics: int, seed: int) -> nn.Module:
    """From words (N, BUCKETS) to scores (N, topics); 33,097 parameters for nine."""
    with seeding.weights(seed):
        return nn.Sequential(nn.Linear(BUCKETS, 32), nn.ReLU(), nn.Linear(32, topics))


def prepare(raw: Any) -> Tensor:
    """A text, as words (BUCKETS,)."""
    if not isinstance(raw, str):
        raise ValueError(f"an input is a text, not {str(raw)[:60]}")
    return torch.from_numpy(preprocess.words(raw, BUCKETS))


@lru_cache(2)
def load(path: str) -> tuple[Tensor, Tensor, tuple[str, ...], list[str]]:
    """Words (N, BUCKETS), topics (N,), their names, and who each text is of."""
    texts, labels, owners = _file(path) if path else _index()
    names = tuple(sorted(set(labels)))
    known = {name: index for index, name in enumerate(names)}
    inputs = np.stack([preprocess.words(text, BUCKETS) for text in texts])
    targets: NDArray[np.int64] = np.array([known[label] for label in labels], np.int64)
    return torch.from_numpy(inputs), torch.from_numpy(targets), names, owners


def _index() -> Texts:
    found: dict[str, list[packages.Package]] = {name: [] for name in SECTIONS}
    every, owned = packages.local(), Counter[str]()
    for index in np.random.default_rng(0).permutation(len(every)):
        package = every[index]
        members = found.get(package.section, [])
        if package.section in found and package.description and len(members) < MOST:
            owned[package.maintainer] += 1
            if owned[package.maintainer] <= OWNED:
                members.append(package)
    chosen = [package for members in found.values() for package in members]
    return (
        [package.description for package in chosen],
        [package.section for package in chosen],
        [package.maintainer for package in chosen],
    )


def _file(path: str) -> Texts:
    columns: Texts = ([], [], [])
    for index, row in enumerate(tables.whole(path), 1):
        for name, column in zip(("text", "label", "owner"), columns, strict=True):
            if not row.get(name):
                raise DataError(f"{path}: row {index}: has no {name}; it needs text, label, owner")
            column.append(str(row[name]))
    if not columns[0]:
        raise DataError(f"{path}: holds no rows")
    return columns
