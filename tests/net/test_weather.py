"""A swarm behind a router that loses packets, and for a while all of those between two halves."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.daemons import eventually
from tests.net.lab import Lab

NODES = 12
BEFORE, SPLIT = 10.0, 20.0  # seconds
SAMPLES = 30_000  # that each node sees in all, so that a slow machine makes no difference
LONGEST = 240.0  # seconds
RATE = "20mbit"
LOSS = """
table ip loss {
    chain through {
        type filter hook forward priority filter;
        numgen random mod 100 < 20 drop
    }
}
"""
PARTITION = """
table ip split {{
    chain through {{
        type filter hook forward priority filter;
        iifname {{ {one} }} oifname {{ {other} }} drop
        iifname {{ {other} }} oifname {{ {one} }} drop
    }}
}}
"""
# Two of the ten digits for each, and a pause, so that many can share a machine.
DIGITS = """
import time
from models import digits

def learner(shard: int, shards: int, seed: int):
    made = digits.learner(shard, shards, seed, split="shards", steps=5)
    train = made.train

    def paced() -> int:
        time.sleep(0.5)
        return train()

    made.train = paced
    return made
"""


class Swarm:
    """Twelve machines around a router, and a node on each, which know the first."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.machines = [lab.machine() for _ in range(NODES)]
        self.router = lab.router(*self.machines)
        self.ends = [lab.ends[machine] for machine in self.machines]
        for end in self.ends:
            shape = f"tbf rate {RATE} burst 32k latency 200ms".split()
            self.router.tc("qdisc", "add", "dev", end, "root", *shape)
        self.names = [f"{name}{number}" for number in range(NODES)]


@pytest.mark.slow
@pytest.mark.usefixtures("filters")
def test_loss_and_a_partition_cost_a_swarm_at_most_two_points(
    lab: Lab, key: Path, tmp_path: Path
) -> None:
    (tmp_path / "paced.py").write_text(DIGITS)
    calm, rough = Swarm(lab, "calm"), Swarm(lab, "rough")
    nursery = lab.nursery(
        (
            machine,
            name,
            [
                f"{tmp_path / 'paced.py'}:learner",
                *("--network-key", key, "--listen", "0.0.0.0:7946", "--no-lan"),
                *("--shard", f"{shard}/{NODES}", "--join", "10.1.1.2:7946"),
            ],
        )
        for swarm in (calm, rough)
        for shard, (machine, name) in enumerate(zip(swarm.machines, swarm.names, strict=True))
    )
    for node in nursery.nodes:
        node.reaches("exchanges", 1)
    rough.router.nft(LOSS)
    time.sleep(BEFORE)
    half = NODES // 2
    one, other = (", ".join(ends) for ends in (rough.ends[:half], rough.ends[half:]))
    rough.router.nft(PARTITION.format(one=one, other=other))
    time.sleep(SPLIT)
    rough.router.nft("delete table ip split")
    eventually(
        f"{SAMPLES} samples at each",
        lambda: all(node.status()["samples"] >= SAMPLES for node in nursery.nodes),
        LONGEST,
    )
    accuracies = [status["metrics"]["accuracy"] for status in nursery.stop()]
    undisturbed, disturbed = (
        sum(part) / NODES for part in (accuracies[:NODES], accuracies[NODES:])
    )
    assert undisturbed > 0.8, "alone nobody can tell more than two of the ten digits"
    assert disturbed > undisturbed - 0.02, f"{disturbed:.3f} beside {undisturbed:.3f}"
    assert any("lost " in node.said for node in nursery.nodes[NODES:]), "it was a partition"
