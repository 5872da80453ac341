"""Quiet hours: when they are, and what a node and its neighbours do meanwhile."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gossip.agent import AgentEvent
from gossip.config import Config, check
from gossip.errors import ConfigError
from gossip.exchange import ExchangeCompleted
from gossip.host import Host
from gossip.hours import Hours, until
from gossip.vector import flatten, layout
from p2p import PeerDown
from sims.network import Link
from sims.simulation import Simulation
from tests.sims.test_simulation import learner

NIGHT = datetime(2026, 3, 28, 23, 30, 15)


# when ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ranges", "now", "end"),
    [
        (["22:00-06:00"], "23:30", "30 06:00"),
        (["22:00-06:00"], "05:59", "29 06:00"),
        (["22:00-06:00"], "06:00", None),
        (["22:00-06:00"], "21:59", None),
        (["22:00-06:00"], "22:00", "30 06:00"),
        (["12:00-13:00", "22:00-06:00"], "12:30", "29 13:00"),
        (["12:00-13:00", "13:00-14:00"], "12:30", "29 14:00"),
        (["20:00-22:00", "21:00-06:00"], "20:10", "30 06:00"),
        (["00:00-24:00"], "12:30", "30 12:30"),
        (["18:00-24:00"], "18:30", "30 00:00"),
        (["00:00-12:00", "12:00-24:00"], "12:30", "30 12:30"),
        ([], "12:30", None),
    ],
)
def test_it_is_quiet_until_the_last_of_the_ranges_that_meet_ends(
    ranges: list[str], now: str, end: str | None
) -> None:
    at = datetime.fromisoformat(f"2026-03-29 {now}:00")
    expected = None if end is None else datetime.fromisoformat(f"2026-03-{end}:00")
    assert until(map(Hours.parse, ranges), at) == expected


minutes = st.integers(0, 24 * 60 - 1)


@given(st.lists(st.tuples(minutes, minutes).filter(lambda it: it[0] != it[1])), minutes)
def test_the_end_is_the_first_minute_that_no_range_holds(
    pairs: list[tuple[int, int]], minute: int
) -> None:
    ranges = [Hours(begin, end) for begin, end in pairs]

    def holds(at: datetime) -> bool:
        clock = 60 * at.hour + at.minute
        return any(
            begin <= clock < end if begin < end else clock >= begin or clock < end
            for begin, end in pairs
        )

    now = datetime(2026, 3, 29) + timedelta(minutes=minute)
    end = until(ranges, now)
    assert (end is not None) == holds(now)
    if end is not None:
        assert end - now <= timedelta(days=1)
        assert end - now == timedelta(days=1) or not holds(end)
        assert holds(end - timedelta(minutes=1))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "22-06",
        "22:00",
        "24:00-06:00",
        "22:60-06:00",
        "22:00-24:01",
        "06:00-06:00",
        "9:00-10:00",
    ],
)
def test_what_is_no_part_of_a_day_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"quiet: .* write for example"):
        check({"quiet": ["12:00-13:00", text]}, "node.toml")
    assert check({"quiet": "12:00-13:00"}, "node.toml").quiet == ("12:00-13:00",)


# a swarm ------------------------------------------------------------------------------------------


class Swarm:
    """Four simulated nodes, of which the second will rest."""

    def __init__(self, link: Link | None = None) -> None:
        self.simulation = Simulation(3, link)
        self.exchanges = [0] * 4
        self.lost: list[tuple[int, AgentEvent]] = []
        for index in range(4):
            self.simulation.add(partial(learner, index))
        self.simulation.listen(self._on_event)
        self.simulation.run(8)

    def _on_event(self, index: int, event: AgentEvent, now: float) -> None:
        if isinstance(event, ExchangeCompleted):
            self.exchanges[index] += 1
        if isinstance(event, PeerDown):
            self.lost.append((index, event))

    def rest(self, seconds: float) -> None:
        """Have the second one rest."""
        node = self.simulation.nodes[1]
        assert node.agent is not None
        node.agent.rest(self.simulation.now + seconds, self.simulation.now)  # type: ignore[union-attr]
        self.simulation.network.pump(node.peer.address)

    def run(self, seconds: float) -> tuple[list[float], float]:
        """Exchanges a second of each node, and the bytes a second that the second one sends and
        gets."""
        before, host = list(self.exchanges), self.simulation.network.hosts[self.address]
        moved = host.sent + host.received
        self.simulation.run(seconds)
        rates = [(now - then) / seconds for now, then in zip(self.exchanges, before, strict=True)]
        return rates, (host.sent + host.received - moved) / seconds

    @property
    def address(self) -> object:
        return self.simulation.nodes[1].peer.address


@pytest.mark.parametrize("link", [None, Link(loss=0.2)], ids=["good links", "links with loss"])
def test_a_node_that_rests_is_silent_and_alive_and_nobody_waits_for_it(link: Link | None) -> None:
    swarm = Swarm(link)
    usual, _ = swarm.run(8)
    swarm.rest(20)
    swarm.run(3)
    agent = swarm.simulation.nodes[1].agent
    assert agent is not None
    trained = agent.samples
    quiet, liveness = swarm.run(15)
    assert quiet[1] == 0
    assert agent.samples > trained, "it learns on"
    assert liveness < 700, "three neighbours are kept alive, nothing else"
    # Where packets are lost, two links carry less than three, whoever the third one was with.
    least = 0.8 if link is None else 0.1
    for index in (0, 2, 3):
        assert quiet[index] > least * usual[index], "they turn to each other"
    assert swarm.lost == []
    swarm.run(5)
    again, _ = swarm.run(5)
    assert again[1] > least * usual[1]
    assert swarm.simulation.report().consensus_distance < 0.1


def test_a_rest_that_ends_early_ends_for_the_neighbours_too() -> None:
    swarm = Swarm()
    usual, _ = swarm.run(5)
    swarm.rest(3600)
    assert swarm.run(5)[0][1] < 1
    swarm.rest(0)
    assert swarm.run(5)[0][1] > 0.8 * usual[1]


def test_who_comes_while_its_neighbour_rests_waits_for_it_without_asking_again() -> None:
    swarm = Swarm()
    swarm.rest(20)
    newcomer = swarm.simulation.add(partial(learner, 1))
    swarm.exchanges.append(0)
    swarm.simulation.run(10)
    agent = swarm.simulation.nodes[newcomer].agent
    assert agent is not None
    resting = agent.links.get(swarm.simulation.nodes[1].peer.id)  # type: ignore[union-attr]
    assert resting is not None
    assert resting.reference is None, "no snapshot was sent"
    swarm.simulation.run(15)
    assert resting.reference is not None


# a node -------------------------------------------------------------------------------------------


class Wall:
    """A clock on the wall that can be set."""

    def __init__(self) -> None:
        self.now = NIGHT

    def __call__(self) -> datetime:
        return self.now


def test_a_node_rests_by_the_clock_on_the_wall_also_when_that_is_set(tmp_path: Path) -> None:
    model, wall = nn.Linear(3, 2), Wall()
    config = Config(quiet=("22:00-06:00",), state_dir=tmp_path)

    async def live() -> None:
        async with Host(layout(model), flatten(model), config, wall) as host:
            budget = host.agent._budget
            assert host.status()["quiet_until"] == "2026-03-29T06:00"
            assert budget.rests(host._now() + 6 * 3600)
            assert not budget.rests(host._now() + 7 * 3600)
            wall.now += timedelta(hours=4)  # of which one is skipped in the night to summer time
            host._quiet.look(config.quiet, host._now())
            assert host.status()["quiet_until"] == "2026-03-29T06:00"
            assert not budget.rests(host._now() + 3 * 3600)
            wall.now += timedelta(hours=3)
            host._quiet.look(config.quiet, host._now())
            assert host.status()["quiet_until"] is None
            assert not budget.rests(host._now())

    asyncio.run(live())
