"""What happens to a swarm while it learns. Each scenario plans its events and returns."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from sims.simulation import Simulation

CHURN_EVERY = 5.0  # virtual seconds between two crashes
DOWN_FOR = 8.0  # virtual seconds


def steady(simulation: Simulation, seconds: float) -> None:
    """Nothing happens."""


def churn(simulation: Simulation, seconds: float) -> None:
    """A random node crashes every 5 s and comes back from its checkpoint 8 s later.

    The last quarter is quiet, so that the report is of a swarm that is whole again.
    """
    rng = Random(f"churn {simulation.seed}")

    def strike() -> None:
        if len(simulation.live) < 2:
            return
        victim = rng.choice(simulation.live).index
        simulation.crash(victim)
        simulation.call_at(simulation.now + DOWN_FOR, simulation.restart, victim)

    at = CHURN_EVERY
    while at < 0.75 * seconds - DOWN_FOR:
        simulation.call_at(at, strike)
        at += CHURN_EVERY


def partition(simulation: Simulation, seconds: float) -> None:
    """The network falls into two halves for the second third of the time."""
    half = len(simulation.nodes) // 2
    simulation.call_at(
        seconds / 3, simulation.partition, range(half), range(half, len(simulation.nodes))
    )
    simulation.call_at(2 * seconds / 3, simulation.heal)


SCENARIOS: dict[str, Callable[[Simulation, float], None]] = {
    "steady": steady,
    "churn": churn,
    "partition": partition,
}
