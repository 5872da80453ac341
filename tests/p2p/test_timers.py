from math import inf

from hypothesis import given
from hypothesis import strategies as st

from p2p import Timers
from p2p.timers import SPARE

changes = st.lists(
    st.tuples(st.integers(0, 5), st.none() | st.integers(0, 100).map(float)), max_size=50
)


@given(changes, st.integers(0, 100))
def test_exactly_the_keys_that_are_due_expire_earliest_first(
    changes: list[tuple[int, float | None]], now: int
) -> None:
    timers: Timers[int] = Timers()
    model: dict[int, float] = {}
    for key, at in changes:
        if at is None:
            timers.cancel(key)
            model.pop(key, None)
        else:
            timers.set(key, at)
            model[key] = at
    assert timers.next() == min(model.values(), default=inf)
    expired = timers.pop_expired(now)
    assert [model[key] for key in expired] == sorted(at for at in model.values() if at <= now)
    assert sorted(expired) == sorted(key for key, at in model.items() if at <= now)
    assert len(timers) == len(model) - len(expired)


def test_a_timer_that_is_moved_for_ever_takes_no_more_room() -> None:
    timers: Timers[str] = Timers()
    timers.set("first", 5e5)
    for at in range(10_000):
        timers.set("moved", 1e6 - at)
        timers.set("again", 1e6)
    assert len(timers._heap) <= 2 * 3 + SPARE
    assert timers.pop_expired(2e6) == ["first", "moved", "again"]
