"""The control law of a link, and byte budgets."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.budget import BURST, Budget, Limits
from gossip.density import Density, DensityConfig, Motion

CONFIG = DensityConfig()
SIZE = 10_000


def density(pace: float = 1.0) -> Density:
    motion = Motion()
    if pace:
        motion.measure(pace)
    return Density(CONFIG, motion)


def test_a_link_that_keeps_up_sends_the_usual_share() -> None:
    one = density()
    for squared in (0.0, 1.0, CONFIG.lag):
        assert one.choose(squared, SIZE, inf).density == CONFIG.base


def test_a_link_that_lags_sends_more_up_to_a_bound_and_in_finer_steps() -> None:
    one = density()
    assert one.choose(4 * CONFIG.lag, SIZE, inf).density == pytest.approx(2 * CONFIG.base)
    far = one.choose(1e9 * CONFIG.lag, SIZE, inf)
    assert (far.density, far.bits) == (CONFIG.most, 4)
    assert one.choose(1.0, SIZE, inf).bits == 3


def test_where_nothing_is_trained_the_share_is_the_usual_one() -> None:
    assert density(pace=0.0).choose(1e9, SIZE, inf).density == CONFIG.base


def test_slower_training_makes_the_same_distance_a_longer_lag() -> None:
    motion = Motion()
    one = Density(CONFIG, motion)
    motion.measure(1.0)
    before = one.choose(CONFIG.lag, SIZE, inf).density
    for _ in range(100):
        motion.measure(0.01)  # the learning rate has decayed
    assert one.choose(CONFIG.lag, SIZE, inf).density > 2 * before


@given(st.floats(0, 1e30), st.floats(0, 1e30), st.integers(1, 10**8), st.floats(0, 1e12), st.data())
def test_the_share_stays_within_its_bounds(
    squared: float, pace: float, size: int, most: float, data: st.DataObject
) -> None:
    one = density(pace)
    one.sent(data.draw(st.integers(0, size)), data.draw(st.integers(0, 10**9)))
    chosen = one.choose(squared, size, most)
    assert CONFIG.least <= chosen.density <= max(CONFIG.most, min(1.0, 64 / size))


def test_a_half_is_cut_to_what_it_may_take() -> None:
    one = density()
    one.sent(kept=400, size=400)  # a byte each
    assert one.choose(0.0, SIZE, 200.0).density == pytest.approx(0.02)
    assert one.choose(0.0, SIZE, 0.0).density == CONFIG.least


# budgets ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("", Limits()),
        ("64 KiB/s", Limits(per_second=65536)),
        ("1.5 MB/s", Limits(per_second=1.5e6)),
        (" 2KiB / exchange ", Limits(per_exchange=2048)),
        ("500 B/s", Limits(per_second=500)),
    ],
)
def test_a_budget_is_read(text: str, limits: Limits) -> None:
    assert Limits.parse(text) == limits


@pytest.mark.parametrize("text", ["64", "64 KiB", "fast", "0 B/s", "-1 B/s", "1 GB/h"])
def test_what_is_no_budget_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="64 KiB/s"):
        Limits.parse(text)


def test_what_is_spent_is_earned_again_and_saved_up_for_a_while_only() -> None:
    budget = Budget(Limits(per_second=100.0))
    assert budget.half(0.0) == 100 * BURST / 2
    budget.spend(1200)
    assert not budget.allows(0.0)
    assert budget.half(0.0) == 0.0
    assert not budget.allows(1.0)
    assert budget.allows(2.5)
    assert budget.half(1e6) == 100 * BURST / 2


def test_a_limit_for_each_exchange_is_no_limit_on_how_many() -> None:
    budget = Budget(Limits(per_exchange=300.0))
    budget.spend(10**9)
    assert budget.allows(0.0)
    assert budget.half(0.0) == 300.0


def test_of_a_small_model_a_packet_holds_what_there_is() -> None:
    assert density().choose(1.0, 10, inf).density == 1.0
    assert density().choose(1.0, 320, inf).density == pytest.approx(0.1)
