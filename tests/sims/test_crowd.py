"""The gates of the overlay; small here, of full size in `benchmarks/overlay.py` and `make soak`.

A cycle is the time between two shuffles, 30 s.
"""

import os
import subprocess
import sys

import pytest

from p2p import LivenessConfig, SwarmConfig
from sims.crowd import Crowd

CYCLE = 30.0
SELDOM = SwarmConfig(liveness=LivenessConfig(quiet=300.0))
WATCHFUL = SwarmConfig(liveness=LivenessConfig(quiet=1.5))


def shaped(nodes: int, rate: float) -> Crowd:
    crowd = Crowd(config=SELDOM)
    crowd.grow(nodes, rate=rate, settle=4 * CYCLE)
    assert crowd.degrees()[5] >= 0.995 * nodes
    assert crowd.one_sided() == 0
    assert crowd.connected()
    return crowd


def test_almost_everybody_has_five_links_and_nobody_half_of_one() -> None:
    assert shaped(250, rate=25).average_path() <= 4.3


@pytest.mark.slow
def test_ten_thousand_form_one_component_with_short_paths() -> None:
    assert shaped(10_000, rate=170).average_path() <= 6.6


def crashed(share: float, nodes: int, seed: int) -> Crowd:
    crowd = Crowd(seed, config=WATCHFUL)
    crowd.grow(nodes, rate=50, settle=2 * CYCLE)
    crowd.crash_share(share)
    crowd.detect()
    assert crowd.undetected() == 0
    return crowd


def test_half_of_them_die_and_the_others_hang_together_after_one_pass() -> None:
    assert crashed(0.5, 150, seed=0).reliability() >= 0.999


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("share", "first", "third"),
    [
        (0.5, 0.999, 0.999),
        (0.7, 0.999, 0.999),
        (0.8, 0.999, 0.999),
        (0.9, 0.97, 0.998),
        (0.95, 0.0, 0.9),
    ],
)
def test_most_of_a_thousand_die_and_the_others_find_together(
    share: float, first: float, third: float, seed: int
) -> None:
    crowd = crashed(share, 1000, seed)
    assert crowd.reliability() >= first
    crowd.network.run(3 * CYCLE)
    assert crowd.reliability() >= third


def healed(nodes: int, seed: int) -> bool:
    crowd = Crowd(seed, config=WATCHFUL)
    crowd.grow(nodes, rate=50, settle=2 * CYCLE)
    crowd.partition(range(0, nodes, 2), range(1, nodes, 2))
    crowd.network.run(5 * CYCLE)
    assert not crowd.connected()
    crowd.network.heal()
    crowd.network.run(3 * CYCLE)
    return crowd.connected()


def test_halves_of_a_network_find_together_within_three_cycles() -> None:
    assert healed(60, seed=0)


@pytest.mark.slow
def test_halves_of_three_hundred_find_together_in_nineteen_of_twenty_seeds() -> None:
    assert sum(healed(300, seed) for seed in range(20)) >= 19


def test_a_hundred_newcomers_at_one_contact_within_a_second_end_in_one_component() -> None:
    crowd = Crowd(config=WATCHFUL)
    crowd.grow(101, rate=100, settle=CYCLE)
    assert crowd.connected()


SCRIPT = """
from sims.crowd import Crowd
from sims.network import Link
crowd = Crowd(3, Link(loss=0.1, duplicate=0.05))
crowd.grow(25, rate=10, settle=20)
crowd.crash(3, 4, 5)
crowd.network.run(20)
print(crowd.network.trace, crowd.swarms[0].known())
"""


def test_the_same_seed_gives_the_same_trace_whatever_the_hash_seed() -> None:
    traces = set()
    for seed in ("0", "1", "random"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
        )
        traces.add(done.stdout)
    assert len(traces) == 1
