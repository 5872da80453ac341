"""Whether the overlay keeps its promises: python benchmarks/overlay.py [--check] [NAME ...]

Virtual time, fixed seeds; every figure stands beside its gate. A cycle is the time between two
shuffles, 30 s; one pass is over when no link with the dead is left and whoever lost one has asked
for another. Names: shape, crash, split, storm, stalls, detect. Where liveness is not the subject
it probes seldom, or most of the events would be pings.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).parents[1]))

from p2p import LivenessConfig, SwarmConfig
from sims.crowd import Crowd, peer
from sims.network import Link

CYCLE = 30.0
SELDOM = SwarmConfig(liveness=LivenessConfig(quiet=300.0))
WATCHFUL = SwarmConfig(liveness=LivenessConfig(quiet=1.5))

failures: list[str] = []


def row(what: str, value: float, gate: str, kept: bool) -> None:
    """Print a figure and its gate."""
    print(f"  {what:58}{value:10.4f}   {gate:12}{'' if kept else 'MISSED'}", flush=True)
    if not kept:
        failures.append(what)


def shape(nodes: int = 10_000) -> None:
    """What a large network looks like after four cycles."""
    crowd = Crowd(0, config=SELDOM)
    crowd.grow(nodes, rate=nodes / 60, settle=4 * CYCLE)
    full = crowd.degrees()[5] / nodes
    row(f"{nodes:,} nodes: share with exactly 5 links", full, ">= 0.995", full >= 0.995)
    one_sided = crowd.one_sided()
    row("one-sided links", one_sided, "= 0", one_sided == 0)
    reached = crowd.reliability(1)
    row("share in one component", reached, "= 1", reached == 1)
    path = crowd.average_path()
    row("links between two nodes", path, "<= 6.6", path <= 6.6)
    chosen = [sum(link.ours for link in one.neighbours.values()) for one in crowd.swarms.values()]
    row("share with two links of their own choice", sum(n >= 2 for n in chosen) / nodes, "", True)


def crash() -> None:
    """Most of 1,000 nodes die at once; mean over three seeds."""
    gates = {0.5: (0.999,), 0.7: (0.999,), 0.8: (0.999,), 0.9: (0.97, 0.998), 0.95: (0.75, 0.9)}
    for share, (first, *third) in gates.items():
        passes, thirds = [], []
        for seed in range(3):
            crowd = Crowd(seed, config=WATCHFUL)
            crowd.grow(1000, rate=50, settle=2 * CYCLE)
            crowd.crash_share(share)
            crowd.detect()
            passes.append(crowd.reliability())
            crowd.network.run(3 * CYCLE)
            thirds.append(crowd.reliability())
        mean = sum(passes) / len(passes)
        row(f"{share:.0%} crash: reached after one pass", mean, f">= {first}", mean >= first)
        mean = sum(thirds) / len(thirds)
        gate = third[0] if third else 0.999
        row(f"{share:.0%} crash: after three cycles", mean, f">= {gate}", mean >= gate)


def split() -> None:
    """300 nodes are cut in two for five cycles."""
    healed = 0
    for seed in range(20):
        crowd = Crowd(seed, config=WATCHFUL)
        crowd.grow(300, rate=50, settle=2 * CYCLE)
        crowd.partition(range(0, 300, 2), range(1, 300, 2))
        crowd.network.run(5 * CYCLE)
        crowd.network.heal()
        crowd.network.run(3 * CYCLE)
        healed += crowd.connected()
    row("splits of 300 nodes healed in 3 cycles, of 20", healed, ">= 19", healed >= 19)


def storm() -> None:
    """100 nodes join through one contact within a second."""
    joined = 0
    for seed in range(20):
        crowd = Crowd(seed, config=WATCHFUL)
        crowd.grow(101, rate=100, settle=CYCLE)
        joined += crowd.connected()
    row("storms of 100 newcomers in one component, of 20", joined, "= 20", joined == 20)


def stalls(nodes: int = 128, seconds: float = 120.0) -> None:
    """The grid of stalls: how often the healthy are declared dead."""
    plain = LivenessConfig(suspicion=0.0, doubt=1.0, worst_health=0)
    grid = [(4, 16.4, 0.256), (16, 16.4, 0.256), (16, 16.4, 1.02), (16, 32.8, 0.256)]
    grid.append((32, 16.4, 0.256))
    totals = [0, 0]
    for slow, stalled, pause in grid:
        counts = [
            false_deaths(liveness, nodes, slow, stalled, pause, seconds)
            for liveness in (plain, LivenessConfig())
        ]
        totals = [total + count for total, count in zip(totals, counts, strict=True)]
        row(f"{slow} of {nodes} stall {stalled} s: plain SWIM", counts[0], "", True)
        row("  with local health and suspicion", counts[1], "", True)
    ratio = totals[1] / totals[0]
    row("with, in relation to without", ratio, "<= 0.02", ratio <= 0.02)


def false_deaths(
    liveness: LivenessConfig, nodes: int, slow: int, stalled: float, pause: float, seconds: float
) -> int:
    """How often nodes that do not stall are declared dead."""
    crowd = Crowd(0, config=SwarmConfig(liveness=liveness))
    crowd.grow(nodes, rate=20, settle=CYCLE)
    network, began = crowd.network, crowd.network.now
    victims = range(0, slow * (nodes // slow), nodes // slow)
    for victim in victims:
        at = began
        while at < began + seconds:
            network.call_at(at, network.stall, peer(victim).address, stalled)
            at += stalled + pause
    network.run(seconds + 10)
    weak = {peer(victim).id for victim in victims}
    return sum(
        at > began and down.reason.startswith("silent") and down.peer.id not in weak
        for at, _, down in crowd.downs
    )


def detect() -> None:
    """How long a crash stays unknown to a neighbour at 10 % loss."""
    longest = 0.0
    for seed in range(20):
        crowd = Crowd(seed, Link(loss=0.1))
        crowd.grow(16, rate=10, settle=CYCLE)
        crashed = crowd.network.now
        crowd.crash(7)
        crowd.network.run(15)
        times = [at - crashed for at, _, down in crowd.downs if down.peer.id == peer(7).id]
        longest = max(longest, *times, 15.0 if crowd.undetected() else 0.0)
    row("seconds until the last neighbour knows of a crash", longest, "<= 6", longest <= 6)


ALL: dict[str, Callable[[], None]] = {
    scenario.__name__: scenario for scenario in (shape, crash, split, storm, stalls, detect)
}


def main() -> None:
    """Run what was named, or all."""
    names = [name for name in sys.argv[1:] if name != "--check"] or list(ALL)
    for name in names:
        print(f"{name}: {(ALL[name].__doc__ or '').splitlines()[0]}")
        began = perf_counter()
        ALL[name]()
        print(f"  {perf_counter() - began:.0f} s")
    if failures and "--check" in sys.argv:
        sys.exit(f"{len(failures)} gates were missed: {'; '.join(failures)}")


if __name__ == "__main__":
    main()
