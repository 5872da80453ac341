"""Ways to divide a labelled data set among shards.

Each function takes the labels of all samples and returns one array of sample indices per shard.
The shards are disjoint, complete (every sample belongs to one) and never empty, and the same
arguments always give the same shards: so every node computes the whole division and keeps its own.

`iid` gives everybody the same mixture. `dirichlet` skews the mixtures, more so the smaller alpha is
(Hsu, Qi, Brown, "Measuring the Effects of Non-Identical Data Distribution", 2019). `by_class` lets
a shard see only a few classes (McMahan et al., "Communication-Efficient Learning", 2017, section 3,
but dealing whole classes instead of runs of the sorted data, so that the count is exact).

The others need no labels. `by_key` keeps together what belongs together by nature: the recordings
of a speaker, the packages of a maintainer. `by_quantity` makes shards of one mixture and unequal
sizes, `by_feature` shards of one size that see different ranges of a number: ages, brightness.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Indices = NDArray[np.int64]


def iid(labels: ArrayLike, shards: int, seed: int) -> list[Indices]:
    """Deal the samples out at random, in shards whose sizes differ by one at most.

    Raises ValueError when there are fewer samples than shards.
    """
    labels = _checked(labels, shards)
    order = np.random.default_rng(seed).permutation(len(labels))
    return [np.sort(shard) for shard in np.array_split(order, shards)]


def dirichlet(labels: ArrayLike, shards: int, alpha: float, seed: int) -> list[Indices]:
    """Divide each class in proportions drawn from Dirichlet(alpha, ..., alpha).

    A shard that would be left empty takes one sample from the largest shard. Raises ValueError when
    alpha is not positive or there are fewer samples than shards.
    """
    labels = _checked(labels, shards)
    if not (isfinite(alpha) and alpha > 0):
        raise ValueError(f"alpha must be a positive number, not {alpha}: 0.1 is skewed, 100 even")
    rng = np.random.default_rng(seed)
    parts: list[list[Indices]] = [[] for _ in range(shards)]
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        shares = rng.dirichlet(np.full(shards, alpha))
        cuts = np.round(np.cumsum(shares)[:-1] * len(members)).astype(np.int64)
        for part, piece in zip(parts, np.split(members, cuts), strict=True):
            part.append(piece)
    return [np.sort(shard) for shard in _without_empty([np.concatenate(part) for part in parts])]


def by_class(labels: ArrayLike, shards: int, classes: int, seed: int) -> list[Indices]:
    """Give each shard `classes` distinct classes; the shards that share a class divide it evenly.

    Every class is held by equally many shards, give or take one; where shards * classes equals the
    number of classes, by exactly one. Raises ValueError, with the numbers, when the shards together
    cannot hold all classes or a class has too few samples for the shards that hold it.
    """
    labels = _checked(labels, shards)
    names, counts = np.unique(labels, return_counts=True)
    if not 1 <= classes <= len(names):
        raise ValueError(f"a shard can hold 1 to {len(names)} classes of this data, not {classes}")
    if shards * classes < len(names):
        enough = -(-len(names) // shards)
        raise ValueError(
            f"{shards} shards of {classes} classes cannot hold all {len(names)} classes: "
            f"use {enough} classes a shard, or at least {-(-len(names) // classes)} shards"
        )
    rng = np.random.default_rng(seed)
    holders = _deal_classes(shards, classes, len(names), rng)
    parts: list[list[Indices]] = [[] for _ in range(shards)]
    for name, count, held_by in zip(names, counts, holders, strict=True):
        if count < len(held_by):
            raise ValueError(
                f"class {name} has {count} samples, too few for the {len(held_by)} shards that "
                f"would hold it: use fewer shards than {shards} or fewer classes than {classes}"
            )
        members = rng.permutation(np.flatnonzero(labels == name))
        for shard, piece in zip(held_by, np.array_split(members, len(held_by)), strict=True):
            parts[shard].append(piece)
    return [np.sort(np.concatenate(part)) for part in parts]


def by_key(keys: Sequence[str], shards: int, seed: int) -> list[Indices]:
    """Give whole keys to shards: one after another, in random order, to the smallest shard so far.

    Keys of many samples go first, so that sizes differ by little. Raises ValueError when there are
    fewer keys than shards.
    """
    names, whose, counts = np.unique(np.asarray(keys), return_inverse=True, return_counts=True)
    if not 1 <= shards <= len(names):
        raise ValueError(f"{len(names)} keys cannot fill {shards} shards with one each")
    order = np.random.default_rng(seed).permutation(len(names))
    sizes, holder = np.zeros(shards, np.int64), np.zeros(len(names), np.int64)
    for key in order[np.argsort(-counts[order], kind="stable")]:
        holder[key] = sizes.argmin()
        sizes[holder[key]] += counts[key]
    return [np.flatnonzero(holder[whose] == shard) for shard in range(shards)]


def by_quantity(samples: int, shards: int, alpha: float, seed: int) -> list[Indices]:
    """Shards of one mixture whose sizes are drawn from Dirichlet(alpha, ..., alpha).

    Each has one sample at least. Raises ValueError as `dirichlet` does.
    """
    return dirichlet(np.zeros(samples, np.int64), shards, alpha, seed)


def by_feature(values: ArrayLike, shards: int, seed: int) -> list[Indices]:
    """Cut the samples, in the order of a number that each has, into shards of one size.

    Which shard gets which range depends on the seed. Raises ValueError when there are fewer samples
    than shards.
    """
    array = _checked(values, shards)
    ranges = np.array_split(np.argsort(array, kind="stable"), shards)
    order = np.random.default_rng(seed).permutation(shards)
    return [np.sort(ranges[index]) for index in order]


def check(shard: int, shards: int) -> None:
    """Raises ValueError unless `shard` is one of `shards`."""
    if not 0 <= shard < shards:
        raise ValueError(f"shard must be 0 to {shards - 1} of {shards} shards, not {shard}")


def _deal_classes(
    shards: int, classes: int, total: int, rng: np.random.Generator
) -> list[list[int]]:
    """For each class, the shards that hold it: every shard takes the least held classes."""
    holders: list[list[int]] = [[] for _ in range(total)]
    for shard in range(shards):
        held = np.array([len(shards_of_class) for shards_of_class in holders])
        for index in np.lexsort((rng.random(total), held))[:classes]:
            holders[index].append(shard)
    return holders


def _without_empty(shards: list[Indices]) -> list[Indices]:
    for index in range(len(shards)):
        if len(shards[index]) == 0:
            largest = max(range(len(shards)), key=lambda other: len(shards[other]))
            shards[index], shards[largest] = np.split(shards[largest], [1])
    return shards


def _checked(labels: ArrayLike, shards: int) -> NDArray[Any]:
    array = np.asarray(labels)
    if array.ndim != 1:
        raise ValueError(f"labels must be one number per sample, not of shape {array.shape}")
    if not 1 <= shards <= len(array):
        raise ValueError(f"{len(array)} samples cannot fill {shards} shards with one each")
    return array
