"""Where a node's time goes can be seen, whatever becomes of the node."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path

import pytest

from gossip.errors import ConfigError
from gossip.profile import Profile
from gossip.trace import Trace
from tests.daemons import Start, here
from tests.traces import check, named, parsed, read


def test_a_node_that_ends_and_one_that_is_killed_leave_a_trace(
    start: Start, tmp_path: Path
) -> None:
    traces = tmp_path / "one.json", tmp_path / "two.json"
    one = start("one", f"--profile={traces[0]}")
    two = start("two", f"--profile={traces[1]}", "--join", one.address)
    two.reaches("exchanges", 20)
    two.kill()
    assert one.ends(signal.SIGTERM)[0] == 0
    json.loads(traces[0].read_text())
    for trace in traces:
        events = read(trace)
        check(events)
        trained = {span["name"] for span in named(events, "training")}
        assert {"training", "idle"} <= trained <= {"training", "idle", "load", "evaluate"}
        looped = {span["name"] for span in named(events, "network loop")}
        assert {"network", "idle", "encode", "merge"} <= looped
        wires = [event for event in events if event["ph"] == "b"]
        assert {event["name"] for event in wires} == {"wire"}
        assert [event["args"]["n"] for event in wires] == sorted(e["args"]["n"] for e in wires)


def test_spans_are_told_by_thread_and_what_is_between_them_is_idle(tmp_path: Path) -> None:
    def work() -> None:
        with profile.span("training"):
            time.sleep(0.002)

    with Trace(tmp_path / "trace.json") as trace:
        profile = Profile(trace, "a test", "here")
        with profile.span("network"), profile.span("encode"):
            time.sleep(0.001)
        time.sleep(0.001)
        with profile.span("network"):
            time.sleep(0.001)
        with profile.span("merge"):
            pass  # too short to be seen
        thread = threading.Thread(target=work, name="training_0")
        thread.start()
        thread.join()
    events = read(tmp_path / "trace.json")
    check(events)
    found = named(events, "here")
    assert [span["name"] for span in found] == ["encode", "network", "idle", "network"]
    encode, network, idle, after = found
    assert 1000 <= encode["dur"] <= network["dur"]
    assert idle["ts"] == pytest.approx(network["ts"] + network["dur"], abs=0.01)
    assert idle["ts"] + idle["dur"] == pytest.approx(after["ts"], abs=0.01)
    assert [span["name"] for span in named(events, "training")] == ["training"]


def test_wherever_a_trace_is_cut_off_what_went_before_can_be_read(tmp_path: Path) -> None:
    with Trace(tmp_path / "trace.json") as trace:
        trace.process(1, 'a "name" with }, ] and \\')
        trace.thread(1, 1, "loop")
        trace.span(1, 1, "training", 0.5, 0.25)
        trace.begin(1, 7, "wire", 0.5, peer="ab", n=3)
        trace.end(1, 7, "wire", 0.75)
    text = (tmp_path / "trace.json").read_text()
    whole = json.loads(text)
    assert [event["ph"] for event in whole] == ["M", "M", "M", "X", "b", "e"]
    assert (whole[3]["ts"], whole[3]["dur"]) == (500_000, 250_000)
    for end in range(len(text)):
        found = parsed(text[:end])
        assert found == whole[: len(found)]
        assert len(found) >= text[:end].count("}},") - 1


def test_an_empty_trace_is_one(tmp_path: Path) -> None:
    with Trace(tmp_path / "trace.json"):
        pass
    assert json.loads((tmp_path / "trace.json").read_text()) == []


def test_a_trace_ends_at_its_limit_and_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gossip.trace.MOST", 1000)
    with Trace(tmp_path / "trace.json") as trace:
        for second in range(1000):
            trace.span(1, 1, "training", second, 1)
    assert 5 < len(json.loads((tmp_path / "trace.json").read_text())) < 20
    assert caplog.text.count("ends here; the run goes on") == 1


def test_a_disk_that_is_full_ends_the_trace_and_not_the_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with Trace(Path("/dev/full")) as trace:
        for second in range(1000):
            trace.span(1, 1, "training", second, 1)
    assert "the run goes on without it" in caplog.text


def test_a_place_that_cannot_be_written_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give another --profile"):
        Trace(tmp_path)
    done = here("run", "models.digits:learner", f"--profile={tmp_path / 'no' / 'trace.json'}")
    assert done.exit_code == 3
    assert "trace.json: No such file or directory; give another --profile" in done.stderr
