"""What a simulated swarm does can be seen, in virtual time to the byte."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from gossip.learner import Learner
from sims.simulation import Simulation
from sims.tracks import profiled
from tests.sims.test_simulation import learner
from tests.traces import Event, check, named, read


def run(path: Path | None) -> Simulation:
    """Three nodes; the third crashes and comes back."""
    simulation = Simulation(seed=3)
    with profiled(simulation, path):
        for index in range(3):
            make: partial[Learner] = partial(learner, index)
            simulation.add(make)
        simulation.run(4)
        simulation.crash(2)
        simulation.run(2.5)
        simulation.restart(2)
        simulation.run(4)
    return simulation


def of_node(events: list[Event], node: int) -> list[Event]:
    return [event for event in events if event["pid"] == node + 2]


def test_each_node_has_a_track_in_virtual_time_that_is_always_the_same(tmp_path: Path) -> None:
    paths = tmp_path / "one.json.gz", tmp_path / "two.json.gz"
    plain = run(None)
    traces = [run(path).network.trace for path in paths]
    assert traces == [plain.network.trace] * 2
    events = read(paths[0])
    check(events)
    virtual = [[e for e in read(path) if e["pid"] != 1] for path in paths]
    assert virtual[0] == virtual[1]

    mine = of_node(events, 0)
    trained = [event for event in mine if event["name"] == "training"]
    assert len(trained) == plain.nodes[0].rounds
    assert all(90_000 <= span["dur"] <= 110_000 for span in trained)
    merged = [event for event in mine if event["name"] == "merge"]
    assert plain.nodes[0].agent is not None
    assert len(merged) == plain.nodes[0].agent.stats.exchanges > 10
    flights = [event for event in mine if event["ph"] == "b"]
    assert 0 < len(flights) <= len(merged) + 5  # and exchange 0, and what was never answered
    [down] = [event for event in of_node(events, 2) if event["name"] == "down"]
    assert (down["ts"], down["dur"]) == (4_000_000, 2_500_000)


def test_what_the_simulator_does_meanwhile_is_a_track_of_its_own(tmp_path: Path) -> None:
    run(tmp_path / "trace.json")
    spans = named(read(tmp_path / "trace.json"), "simulator")
    assert {"training", "events", "encode", "decode", "merge"} <= {span["name"] for span in spans}
    whole = sum(span["dur"] for span in spans if span["name"] == "events")
    within = sum(span["dur"] for span in spans if span["name"] not in ("events", "idle"))
    assert 0 < within < whole
