"""What liars do to a swarm, and what merging does about it.

    python benchmarks/attacks.py [--check] [--seeds 2] [--seconds 16]

Ten nodes learn the digits, two of them lie (`sims.attacks`); accuracies are those of the honest
ones, mean and worst, after so many virtual seconds and over the seeds. On IID data each attack
stands beside the quiet run; on 2-class shards there is only the quiet run, to see what the guards
cost where honest neighbours differ. With --check the exit status is 1 when a gate is missed:
clipped within 3 points of the quiet run that merges everything, no honest node with either guard
below chance, and a point lost at most where nobody lies and data are alike.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import torch

from gossip.agent import Agent, AgentConfig
from models import digits
from sims.attacks import hostile, liars
from sims.simulation import Simulation, SimulationConfig

NODES, SHARE = 10, 0.2
ATTACKS = ("sign-flip", "noise", "label-flip", "replay", "little")
MERGES = ("mean", "clipped", "trimmed")
CHANCE = 0.1
JOIN_EVERY = 0.1  # virtual seconds between two nodes

Case = tuple[str, str, str]  # attack or "quiet", split, merge
Result = tuple[float, float, float]  # mean and worst accuracy, share of exchanges clipped


def run(case: Case, seed: int, seconds: float) -> Result:
    """One simulation."""
    torch.set_num_threads(1)
    attack, split, merge = case
    agent = AgentConfig(merge=merge)  # type: ignore[arg-type]
    simulation = Simulation(seed, None, SimulationConfig(agent=agent))
    lying = [] if attack == "quiet" else liars(seed, NODES, SHARE)
    for index in range(NODES):
        make = partial(digits.learner, index, NODES, seed, split=split)
        if index in lying:
            make = hostile(attack, make, simulation, index)
        simulation.add(make, hostile=index in lying)
        simulation.run(JOIN_EVERY)
    simulation.run(seconds)
    honest = [node.agent for node in simulation.live if not node.hostile]
    agents = [one for one in honest if isinstance(one, Agent)]
    clipped = sum(one.guard.clipped for one in agents)
    report = simulation.report()
    exchanges = sum(one.stats.exchanges for one in agents)
    return report.accuracy_mean, report.accuracy_min, clipped / max(exchanges, 1)


def summed_up(results: list[Result]) -> Result:
    """Over the seeds: the mean of the means, the worst of the worst."""
    means, worst, clipped = zip(*results, strict=True)
    return sum(means) / len(means), min(worst), sum(clipped) / len(clipped)


def missed(found: dict[Case, Result]) -> list[str]:
    """The gates that were not reached, in words."""
    problems = []
    quiet = found["quiet", "iid", "mean"][0]
    for attack in ATTACKS:
        mean = found[attack, "iid", "clipped"][0]
        if mean < quiet - 0.03:
            problems.append(f"{attack}: {mean:.3f} is more than 3 points below {quiet:.3f}")
        for merge in ("clipped", "trimmed"):
            worst = found[attack, "iid", merge][1]
            if worst < CHANCE:
                problems.append(f"{attack}, {merge}: a node at {worst:.3f} is below chance")
    guarded = found["quiet", "iid", "clipped"][0]
    if guarded < quiet - 0.01:
        problems.append(f"nobody lies: {guarded:.3f} clipped, {quiet:.3f} with everything merged")
    return problems


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail when a gate is missed")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=16.0, help="virtual, of each run")
    given = parser.parse_args()
    rows = [("quiet", "iid"), ("quiet", "shards"), *((attack, "iid") for attack in ATTACKS)]
    cases = [(attack, split, merge) for attack, split in rows for merge in MERGES]
    found = {}
    with ProcessPoolExecutor(2) as pool:
        runs = {
            case: [pool.submit(run, case, seed, given.seconds) for seed in range(given.seeds)]
            for case in cases
        }
        print(f"{'attack':<12}{'split':<8}{'merge':<9}{'mean':>7}{'worst':>7}{'clipped':>9}")
        for case, futures in runs.items():
            found[case] = mean, worst, clipped = summed_up([each.result() for each in futures])
            attack, split, merge = case
            print(
                f"{attack:<12}{split:<8}{merge:<9}{mean:>7.3f}{worst:>7.3f}{clipped:>9.1%}",
                flush=True,
            )
    problems = missed(found)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if given.check and problems else 0


if __name__ == "__main__":
    sys.exit(main())
