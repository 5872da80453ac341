"""The life of a node: it restarts, comes late, sleeps, is slow, and gets other data."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from gossip.agent import ModelAdopted
from gossip.learner import Batches, TorchLearner
from p2p import SwarmConfig
from p2p.liveness import LivenessConfig
from sims.network import Link
from sims.simulation import SimulatedNode, Simulation, SimulationConfig

SIZE = 40


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    truth = torch.randn(SIZE, generator=generator)
    points = torch.randn(400, SIZE, generator=generator)
    return points, (points @ truth > 0).long()


def learner(shard: int) -> TorchLearner:
    """Which of two sides a point lies on; each shard sees one of them only."""
    points, labels = data()
    mine = labels[:300] == shard % 2
    torch.manual_seed(0)
    order = torch.Generator().manual_seed(shard)
    return TorchLearner(
        nn.Linear(SIZE, 2),
        Batches(points[:300][mine], labels[:300][mine], 16, order),
        nn.functional.cross_entropy,
        partial(torch.optim.SGD, lr=0.05, momentum=0.5),
        steps=2,
        test=(points[300:], labels[300:]),
    )


def swarm(nodes: int, config: SimulationConfig | None = None) -> Simulation:
    simulation = Simulation(0, Link(loss=0.2), config)
    for index in range(nodes):
        simulation.add(partial(learner, index))
    return simulation


def kept(node: SimulatedNode) -> dict[str, Tensor]:
    assert isinstance(node.learner, TorchLearner)
    return node.learner.state()


def test_a_node_that_restarts_goes_on_with_what_training_kept() -> None:
    simulation = swarm(3)
    simulation.run(11)
    simulation.crash(1)
    node = simulation.nodes[1]
    assert node.checkpoint is not None
    saved = dict(node.checkpoint.local)
    assert {name.partition(".")[0] for name in saved} == {"h", "SGD"}
    simulation.restart(1)
    assert all(torch.equal(kept(node)[name], tensor) for name, tensor in saved.items())
    simulation.crash(1)
    simulation.restart(1, forget=True)
    assert kept(node) == {}
    simulation.run(5)
    assert simulation.report().accuracy_min > 0.85


def test_a_late_joiner_fetches_the_model_once_and_goes_on_from_it() -> None:
    simulation = swarm(3)
    simulation.run(15)
    adopted: list[int] = []
    simulation.listen(
        lambda index, event, now: adopted.append(index) if isinstance(event, ModelAdopted) else None
    )
    late = simulation.add(partial(learner, 3))
    simulation.run(3)
    assert simulation.nodes[late].learner.evaluate()["accuracy"] > 0.8
    simulation.run(5)
    assert adopted == [late]


def test_a_node_that_slept_for_an_hour_is_one_of_them_again() -> None:
    liveness = LivenessConfig(quiet=10.0, least_timeout=1.0, interval=4.0)
    simulation = swarm(
        3, SimulationConfig(train_seconds=20.0, swarm=SwarmConfig(liveness=liveness))
    )
    simulation.run(900)
    sleeper = simulation.nodes[2]
    rounds = sleeper.rounds
    simulation.network.freeze(sleeper.peer.address, 3600.0)
    simulation.run(3590)
    assert sleeper.rounds == rounds
    others = {node.peer.id for node in simulation.nodes if node is not sleeper}
    assert all(
        sleeper.peer.id not in node.agent.links
        for node in simulation.live
        if node.agent and node is not sleeper
    )
    simulation.run(600)
    assert sleeper.rounds > rounds
    assert sleeper.agent is not None
    assert set(sleeper.agent.links) == others
    report = simulation.report()
    assert report.accuracy_min > 0.85
    assert report.consensus_distance < 0.15


def test_a_slow_node_and_one_whose_data_change_poison_nobody() -> None:
    simulation = Simulation(0, Link(loss=0.2))
    for index in range(4):
        simulation.add(partial(learner, index), slowdown=4.0 if index == 3 else 1.0)
    simulation.run(12)
    changed = simulation.nodes[0].learner
    assert isinstance(changed, TorchLearner)
    changed.batches = learner(1).batches
    simulation.run(8)
    assert simulation.report().accuracy_min > 0.8
