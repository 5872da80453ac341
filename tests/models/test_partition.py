"""Every way to divide a data set gives disjoint, complete, non-empty, repeatable shards."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import partition

Divide = Callable[[list[int], int, int], list[partition.Indices]]

WAYS: dict[str, Divide] = {
    "iid": lambda labels, shards, seed: partition.iid(labels, shards, seed),
    "dirichlet 0.01": lambda labels, shards, seed: partition.dirichlet(labels, shards, 0.01, seed),
    "dirichlet 1": lambda labels, shards, seed: partition.dirichlet(labels, shards, 1.0, seed),
    "dirichlet 1e6": lambda labels, shards, seed: partition.dirichlet(labels, shards, 1e6, seed),
}

seeds = st.integers(0, 2**32)
every_way = pytest.mark.parametrize("way", WAYS)


@st.composite
def divisible(draw: st.DrawFn) -> tuple[list[int], int]:
    """Labels, and a number of shards that they can fill."""
    labels = draw(st.lists(st.integers(-3, 9), min_size=1, max_size=60))
    return labels, draw(st.integers(1, len(labels)))


@st.composite
def divisible_by_class(draw: st.DrawFn) -> tuple[list[int], int, int]:
    """Labels, shards and classes, with a sample of each class for everybody."""
    total = draw(st.integers(1, 8))
    classes = draw(st.integers(1, total))
    shards = draw(st.integers(-(-total // classes), 12))
    counts = draw(st.lists(st.integers(shards, 20), min_size=total, max_size=total))
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    return draw(st.permutations(labels)), shards, classes


def assert_lawful(shards: list[partition.Indices], wanted: int, samples: int) -> None:
    assert len(shards) == wanted
    assert all(len(shard) > 0 for shard in shards)
    assert sorted(np.concatenate(shards).tolist()) == list(range(samples))
    assert all((np.diff(shard) > 0).all() for shard in shards)
    assert all(shard.dtype == np.int64 for shard in shards)


def equal(one: list[partition.Indices], other: list[partition.Indices]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@every_way
@given(divisible(), seeds)
def test_shards_are_disjoint_complete_sorted_and_never_empty(
    way: str, case: tuple[list[int], int], seed: int
) -> None:
    labels, shards = case
    assert_lawful(WAYS[way](labels, shards, seed), shards, len(labels))


@every_way
@given(divisible(), seeds)
def test_the_same_arguments_give_the_same_shards(
    way: str, case: tuple[list[int], int], seed: int
) -> None:
    labels, shards = case
    assert equal(WAYS[way](labels, shards, seed), WAYS[way](labels, shards, seed))


@every_way
def test_another_seed_gives_other_shards(way: str) -> None:
    labels = [index % 10 for index in range(200)]
    assert not equal(WAYS[way](labels, 4, 0), WAYS[way](labels, 4, 1))


@given(divisible(), seeds)
def test_iid_shards_differ_by_one_sample_at_most(case: tuple[list[int], int], seed: int) -> None:
    labels, shards = case
    sizes = [len(shard) for shard in partition.iid(labels, shards, seed)]
    assert max(sizes) - min(sizes) <= 1


def skew(alpha: float) -> float:
    """The largest share of a class in a shard, on average over the shards."""
    labels = np.repeat(np.arange(10), 100)
    shards = partition.dirichlet(labels, 10, alpha, seed=0)
    return float(np.mean([np.bincount(labels[shard]).max() / len(shard) for shard in shards]))


def test_a_smaller_alpha_skews_more() -> None:
    assert skew(0.05) > skew(0.5) > skew(5) > skew(500)
    assert skew(0.05) > 0.5
    assert skew(1e6) < 0.11


@given(divisible_by_class(), seeds)
def test_by_class_gives_everybody_so_many_classes_and_shares_each_evenly(
    case: tuple[list[int], int, int], seed: int
) -> None:
    labels, wanted, classes = case
    shards = partition.by_class(labels, wanted, classes, seed)
    assert_lawful(shards, wanted, len(labels))
    assert equal(shards, partition.by_class(labels, wanted, classes, seed))
    held = [np.unique(np.asarray(labels)[shard], return_counts=True) for shard in shards]
    assert all(len(names) == classes for names, _ in held)
    holders = []
    for label in np.unique(labels):
        parts = [int(counts[names == label].sum()) for names, counts in held if label in names]
        assert max(parts) - min(parts) <= 1
        holders.append(len(parts))
    assert max(holders) - min(holders) <= 1


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=60), st.data(), seeds)
def test_by_key_keeps_together_what_belongs_together(
    keys: list[str], data: st.DataObject, seed: int
) -> None:
    wanted = data.draw(st.integers(1, len({*keys})))
    shards = partition.by_key(keys, wanted, seed)
    assert_lawful(shards, wanted, len(keys))
    assert equal(shards, partition.by_key(keys, wanted, seed))
    held = [{keys[index] for index in shard} for shard in shards]
    assert sum(map(len, held)) == len({*keys})


def test_by_key_gives_the_largest_keys_first_so_that_sizes_are_near() -> None:
    keys = "a" * 9 + "b" * 6 + "c" * 5 + "d" * 4 + "e" * 3 + "f" * 3
    assert sorted(len(shard) for shard in partition.by_key(list(keys), 3, 0)) == [9, 9, 12]


@given(st.integers(1, 200), st.data(), seeds)
def test_by_quantity_gives_everybody_something(
    samples: int, data: st.DataObject, seed: int
) -> None:
    wanted = data.draw(st.integers(1, samples))
    assert_lawful(partition.by_quantity(samples, wanted, 0.5, seed), wanted, samples)


def test_a_smaller_alpha_makes_sizes_more_unequal() -> None:
    spread = [
        float(np.std([len(shard) for shard in partition.by_quantity(1000, 10, alpha, 0)]))
        for alpha in (0.1, 1, 100)
    ]
    assert spread == sorted(spread, reverse=True)


@given(divisible(), seeds)
def test_by_feature_gives_ranges_that_do_not_overlap(
    case: tuple[list[int], int], seed: int
) -> None:
    values, wanted = case
    shards = partition.by_feature(values, wanted, seed)
    assert_lawful(shards, wanted, len(values))
    ranges = sorted(
        (min(values[i] for i in shard), max(values[i] for i in shard)) for shard in shards
    )
    assert all(low[1] <= high[0] for low, high in pairwise(ranges))


def test_who_sees_which_classes_depends_on_the_seed() -> None:
    labels = np.repeat(np.arange(10), 5)
    one, other = (partition.by_class(labels, 5, 2, seed) for seed in (0, 1))
    assert not equal(one, other)


@pytest.mark.parametrize(
    ("divide", "message"),
    [
        (lambda: partition.iid([1, 2], 3, 0), "2 samples cannot fill 3 shards"),
        (lambda: partition.iid([], 1, 0), "0 samples cannot fill 1 shards"),
        (lambda: partition.iid([1], 0, 0), "1 samples cannot fill 0 shards"),
        (lambda: partition.iid([[1, 2]], 1, 0), r"not of shape \(1, 2\)"),
        (lambda: partition.dirichlet([1, 2], 3, 1.0, 0), "2 samples cannot fill 3 shards"),
        (lambda: partition.dirichlet([1, 2], 2, 0.0, 0), "positive number, not 0.0"),
        (lambda: partition.dirichlet([1, 2], 2, float("nan"), 0), "positive number, not nan"),
        (lambda: partition.dirichlet([1, 2], 2, float("inf"), 0), "positive number, not inf"),
        (lambda: partition.by_key(["a", "a"], 2, 0), "1 keys cannot fill 2 shards"),
        (lambda: partition.by_quantity(3, 2, -1.0, 0), "positive number, not -1.0"),
        (lambda: partition.by_feature([1.0], 2, 0), "1 samples cannot fill 2 shards"),
        (lambda: partition.check(2, 2), "shard must be 0 to 1 of 2 shards, not 2"),
        (lambda: partition.by_class([1, 2], 2, 3, 0), "1 to 2 classes of this data, not 3"),
        (lambda: partition.by_class([1, 2], 2, 0, 0), "1 to 2 classes of this data, not 0"),
        (
            lambda: partition.by_class(list(range(10)), 3, 2, 0),
            "3 shards of 2 classes cannot hold all 10 classes: use 4 classes a shard, or at",
        ),
        (
            lambda: partition.by_class([0, 1, 1, 1], 3, 2, 0),
            "class 0 has 1 samples, too few for the 3 shards",
        ),
    ],
)
def test_what_cannot_be_divided_is_refused_with_the_numbers(
    divide: Callable[[], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        divide()
