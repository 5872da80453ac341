"""From a description to a simulation that is ready to run, or to all reasons why not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from math import inf

from gossip.errors import ConfigError, GossipError
from gossip.learner import Learner
from gossip.target import build, load
from sims.algorithms import with_algorithm
from sims.attacks import hostile, liars
from sims.churn import Change, plan
from sims.conditions import devices, impose
from sims.engines import Engine
from sims.experiment import Experiment, Happening, joined
from sims.report import size
from sims.simulation import MakeLearner, Simulation, SimulationConfig, address_of
from sims.topology import edges, neighbours

# Python objects and a learner's own data: measured with 200 nodes on digits (1.3 MB each), rounded
# up.
NODE_BYTES = 1.5e6
# Vectors of a node beside those of its links: x, what was handed out, a checkpoint, the model, its
# gradient, momentum and drift correction, and what is under way.
NODE_VECTORS = 8
PUBLISH_EVERY = 5.0  # virtual seconds, as often as real nodes do
LINK_VECTORS = 1.25  # the reference, and the kept halves


def stage(experiment: Experiment) -> Simulation:
    """A simulation in which all nodes have joined and everything that will happen is planned.

    Raises ConfigError, with everything that is wrong, before it makes any but the first node.
    """
    prepared = Stage(experiment)
    simulation = prepared.simulation()
    prepared.fill(simulation)
    return simulation


class Stage:
    """A description that has been checked against its data, its graph and this machine."""

    def __init__(
        self, experiment: Experiment, *, records: bool = False, engine: Engine | None = None
    ) -> None:
        """With `records` the nodes also publish how good they are, as real ones do. `engine`:
        computes training; see `SimulationConfig`."""
        self.experiment = experiment
        self.plan: list[Change] = []
        self.graph: list[list[int]] | None = None
        self.lying: list[int] = []
        self.config = SimulationConfig(
            train_seconds=experiment.round_seconds,
            evaluate_every=PUBLISH_EVERY if records else inf,
            engine=engine,
        )
        problems = list(self._problems())
        if problems:
            raise ConfigError(joined(problems))

    def simulation(self) -> Simulation:
        """An empty one, in which everything is planned."""
        experiment = self.experiment
        simulation = Simulation(experiment.seed, experiment.network.link(), self.config)
        addresses = [address_of(index) for index in range(experiment.nodes)]
        impose(simulation.network, experiment.network, self._kinds, addresses, experiment.seed)
        arrange(simulation, experiment, self.plan)
        return simulation

    def fill(self, simulation: Simulation) -> None:
        """Let all nodes join, one after another."""
        experiment = self.experiment
        late = {change.node for change in self._first_changes() if change.up}
        for index in range(experiment.nodes):
            make = self._make(index)
            if index in self.lying:
                assert experiment.attack is not None
                make = hostile(experiment.attack, make, simulation, index)
            simulation.add(
                make,
                slowdown=self._kinds[index].slowdown,
                hostile=index in self.lying,
                up=index not in late,
            )
            simulation.run(experiment.joining / experiment.nodes)

    def _make(self, index: int) -> MakeLearner:
        experiment = self.experiment
        return partial(
            build, self._function, index, experiment.nodes, experiment.seed, experiment.texts
        )

    def _first_changes(self) -> Iterator[Change]:
        seen: set[int] = set()
        for change in self.plan:
            if change.node not in seen:
                seen.add(change.node)
                yield change

    # what is wrong -------------------------------------------------------------------------------

    def _problems(self) -> Iterator[str]:
        experiment = self.experiment
        steps: list[Callable[[], None]] = [
            self._draw_graph,
            self._plan_churn,
            self._hand_out_devices,
            self._choose_algorithm,
            self._choose_liars,
        ]
        for step in steps:
            try:
                step()
            except (GossipError, ValueError) as error:
                yield str(error)
        for number, event in enumerate(experiment.events):
            if event.at >= experiment.seconds:
                yield (
                    f"events.{number} begins at {event.at:g} s, and the run ends at "
                    f"{experiment.seconds:g} s"
                )
        if not self._left_at_the_end():
            yield (
                f"nobody honest is up at {experiment.seconds:g} s, when the run ends, so there is "
                "no model to look at: let events or the churn end sooner, or the run later"
            )
        try:
            self._function = load(experiment.learner)
            first = self._make(0)()
        except GossipError as error:
            yield str(error)
            return
        yield from self._too_big(first)

    def _left_at_the_end(self) -> list[int]:
        """The honest nodes that the plan and the events leave up."""
        experiment = self.experiment
        up = {node: True for node in range(experiment.nodes) if node not in self.lying}
        up |= {change.node: not change.up for change in self._first_changes() if change.node in up}
        changes = [(change.at, change.node, change.up) for change in self.plan]
        for event in experiment.events:
            if event.kind == "crash":
                struck = range(_struck(event, experiment.nodes))
                changes += [(event.at, node, False) for node in struck]
                changes += [(event.until, node, True) for node in struck]
        for at, node, state in sorted(changes, key=lambda change: change[0]):
            if node in up and at < experiment.seconds:
                up[node] = state
        return [node for node, state in up.items() if state]

    def _draw_graph(self) -> None:
        experiment = self.experiment
        found = edges(experiment.topology, experiment.nodes, experiment.seed)
        if found is not None:
            self.graph = neighbours(found, experiment.nodes)
            self.config = replace(self.config, graph=self.graph)

    def _plan_churn(self) -> None:
        experiment = self.experiment
        self.plan = plan(experiment.churn, experiment.nodes, experiment.seconds, experiment.seed)

    def _hand_out_devices(self) -> None:
        experiment = self.experiment
        self._kinds = devices(experiment.devices, experiment.nodes, experiment.seed)

    def _choose_algorithm(self) -> None:
        experiment = self.experiment
        settings = {name: str(value) for name, value in experiment.settings.items()}
        self.config = with_algorithm(self.config, experiment.algorithm, settings)

    def _choose_liars(self) -> None:
        experiment = self.experiment
        if experiment.attack is not None:
            self.lying = liars(experiment.seed, experiment.nodes, experiment.attackers)

    def _too_big(self, learner: Learner) -> Iterator[str]:
        most = max(map(len, self.graph)) if self.graph else self.config.swarm.links.most
        needed = foreseen(self.experiment.nodes, learner.layout.size, most)
        free = free_memory()
        if needed > free:
            yield (
                f"{self.experiment.nodes:,} nodes of {learner.layout.size:,} parameters with up to "
                f"{most} links need about {size(needed)}, and {size(free)} are free here: take "
                "fewer nodes, a smaller model or fewer links"
            )


def foreseen(nodes: int, size: int, links: int) -> float:
    """Bytes that a run will take, by and large."""
    return nodes * (NODE_BYTES + 4 * size * (NODE_VECTORS + LINK_VECTORS * links))


def free_memory() -> float:
    """Bytes that this machine can still give."""
    try:
        with open("/proc/meminfo") as file:
            sizes = dict(line.split(":") for line in file)
        return 1024.0 * int(sizes["MemAvailable"].split()[0])
    except (OSError, KeyError):  # not Linux
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def arrange(simulation: Simulation, experiment: Experiment, changes: Sequence[Change]) -> None:
    """Plan what will happen to a swarm; nothing does before all nodes are there."""
    begin = max(experiment.joining, simulation.now)
    for change in changes:
        simulation.call_at(max(change.at, begin), _change, simulation, change.node, change.up)
    for happening in experiment.events:
        _arrange(simulation, happening, experiment.nodes, max(happening.at, begin))


def _struck(happening: Happening, nodes: int) -> int:
    """How many nodes something happens to: the first ones."""
    return max(1, round(happening.share * nodes))


def _arrange(simulation: Simulation, happening: Happening, nodes: int, at: float) -> None:
    count = _struck(happening, nodes)
    struck = range(count)

    def change(up: bool) -> None:
        for node in struck:
            _change(simulation, node, up)

    def freeze() -> None:
        for node in struck:
            if simulation.nodes[node].agent is not None:
                simulation.network.freeze(address_of(node), happening.until - at)

    match happening.kind:
        case "partition":
            simulation.call_at(at, simulation.partition, struck, range(count, nodes))
            simulation.call_at(happening.until, simulation.heal)
        case "crash":
            simulation.call_at(at, change, False)
            simulation.call_at(happening.until, change, True)
        case "freeze":
            simulation.call_at(at, freeze)


def _change(simulation: Simulation, node: int, up: bool) -> None:
    """Let a node come or go, unless something else has done so already."""
    if (simulation.nodes[node].agent is None) == up:
        if up:
            simulation.restart(node)
        else:
            simulation.crash(node)
