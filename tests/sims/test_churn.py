from itertools import groupby
from pathlib import Path
from statistics import fmean

import pytest

from gossip.errors import ConfigError
from sims.churn import Change, ChurnConfig, plan


@pytest.mark.parametrize("kind", ["strikes", "sessions"])
def test_a_plan_fits_and_ends_with_everybody_there(kind: str) -> None:
    config = ChurnConfig(kind=kind, up=20, down=5, every=1)  # type: ignore[arg-type]
    changes = plan(config, 20, 200, 3)
    assert len(changes) > 50
    assert all(change.at <= 150 for change in changes)  # the last quarter is quiet
    for _, of_node in groupby(sorted(changes, key=lambda each: each.node), lambda each: each.node):
        ups = [change.up for change in sorted(of_node)]
        assert ups == [False, True] * (len(ups) // 2)
    assert changes == plan(config, 20, 200, 3) != plan(config, 20, 200, 4)


def test_sessions_last_as_long_as_was_said_on_average() -> None:
    for shape in (0.5, 1.0):
        config = ChurnConfig(kind="sessions", up=30, down=5, shape=shape, quiet=0)
        changes = plan(config, 200, 2000, 0)
        lengths: list[float] = []
        came = dict.fromkeys(range(200), 0.0)
        for change in changes:
            if change.up:
                came[change.node] = change.at
            else:
                lengths.append(change.at - came[change.node])
        assert fmean(lengths) == pytest.approx(30, rel=0.1)


def trace(tmp_path: Path, text: str) -> list[Change]:
    file = tmp_path / "trace.csv"
    file.write_text(text)
    return plan(ChurnConfig(kind="trace", trace=file), 3, 60, 0)


def test_a_trace_is_read_in_the_order_of_time(tmp_path: Path) -> None:
    changes = trace(tmp_path, "node,time,state\n1, 20, up\n1, 5.5, down\n2, 3, up\n0, 99, down\n")
    assert changes == [Change(3, 2, True), Change(5.5, 1, False), Change(20, 1, True)]


def test_everything_that_is_wrong_with_a_trace_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        trace(tmp_path, "node,time,state\n1,5,down\n1,9,down\n7,1,up\n0,soon,up\n0,1,away\n0,1\n")
    for text in (
        "line 3: node 1 is down already since line 2; a row that says when it went up is missing",
        "line 4: node '7' is none of 0 to 2",
        "line 5: time 'soon'",
        "line 6: state 'away'",
        "line 7: '0,1' is not node,time,state",
    ):
        assert text in str(caught.value)
