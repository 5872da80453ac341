"""The history of learning."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gossip.history import History, Moment


def moment(number: int, **metrics: float | None) -> Moment:
    return Moment(
        time=float(number),
        rounds=number,
        samples=number,
        exchanges=0,
        bytes_sent=0,
        bytes_received=0,
        bytes_dense=0,
        distance=None,
        metrics=metrics,
    )


@given(st.integers(1, 2000), st.integers(4, 64))
def test_it_is_bounded_evenly_spread_and_holds_the_first_and_the_latest(
    offered: int, most: int
) -> None:
    history = History(most)
    for number in range(offered):
        history.add(moment(number))
    times = [kept.rounds for kept in history.moments]
    assert times[0] == 0
    assert times[-1] == offered - 1
    assert len(times) <= most
    assert len(times) >= min(offered, most // 2)
    gaps = {later - earlier for earlier, later in pairwise(times[:-1])}
    assert len(gaps) <= 1


def test_a_metric_that_comes_later_has_no_values_before() -> None:
    history = History()
    history.add(moment(0, loss=2.0))
    history.add(moment(1, loss=1.0, accuracy=0.5))
    assert history.columns()["metrics"] == {"loss": [2.0, 1.0], "accuracy": [None, 0.5]}
    assert history.columns()["rounds"] == [0, 1]


def test_before_anything_happened_it_is_empty() -> None:
    assert History().columns()["time"] == []
