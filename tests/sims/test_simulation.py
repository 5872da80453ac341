import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gossip.agent import AgentEvent
from gossip.learner import Batches, TorchLearner
from p2p import PeerDown, PeerUp
from sims.churn import plan
from sims.experiment import PRESETS, read
from sims.network import Link
from sims.report import consensus_distance
from sims.simulation import Simulation
from sims.stage import arrange


def learner(shard: int, *, size: int = 40) -> TorchLearner:
    """Which of two directions a point lies in; each shard sees one of them only."""
    generator = torch.Generator().manual_seed(7)
    truth = torch.randn(size, generator=generator)
    points = torch.randn(400, size, generator=generator)
    labels = (points @ truth > 0).long()
    mine = labels[:300] == shard % 2
    torch.manual_seed(0)
    order = torch.Generator().manual_seed(shard)
    return TorchLearner(
        nn.Linear(size, 2),
        Batches(points[:300][mine], labels[:300][mine], 16, order),
        nn.functional.cross_entropy,
        partial(torch.optim.SGD, lr=0.05),
        steps=2,
        test=(points[300:], labels[300:]),
    )


def swarm(nodes: int, seed: int = 0, link: Link | None = None) -> Simulation:
    simulation = Simulation(seed, link)
    for index in range(nodes):
        simulation.add(partial(learner, index))
        simulation.run(0.2)
    return simulation


def test_together_nodes_learn_what_none_of_them_could_alone() -> None:
    alone = learner(0)
    for _ in range(300):
        alone.train()
    assert alone.evaluate()["accuracy"] < 0.65
    simulation = swarm(4)
    simulation.run(30)
    report = simulation.report()
    assert report.accuracy_min > 0.85
    assert report.consensus_distance < 0.1
    assert report.exchanges > 500
    assert 1000 < report.bytes_per_node < 1_000_000


def befall(simulation: Simulation, name: str, nodes: int, seconds: float) -> None:
    """Plan what happens in one of the experiments that have a name."""
    experiment = read(name, {"nodes": nodes, "seconds": seconds}, {})
    changes = plan(experiment.churn, nodes, seconds, simulation.seed)
    arrange(simulation, experiment, changes)


@pytest.mark.parametrize("name", PRESETS)
def test_every_named_experiment_ends_with_all_nodes_up_and_good(name: str) -> None:
    simulation = swarm(6)
    befall(simulation, name, 6, 60)
    simulation.run(60 - simulation.now)
    report = simulation.report()
    assert len(simulation.live) == report.nodes == 6
    assert report.accuracy_min > 0.85
    assert report.consensus_distance < 0.1


def test_a_crashed_node_is_missed_and_comes_back_from_its_checkpoint() -> None:
    simulation = swarm(3)
    events: list[tuple[int, AgentEvent]] = []
    simulation.listen(lambda index, event, now: events.append((index, event)))
    simulation.run(15)
    simulation.crash(1)
    simulation.run(8)
    gone = simulation.nodes[1].peer
    missed = [index for index, event in events if isinstance(event, PeerDown)]
    assert sorted(missed) == [0, 2]
    events.clear()
    simulation.restart(1)
    back = simulation.nodes[1].agent
    assert back is not None
    assert back.samples > 0, "it goes on from where the checkpoint was"
    simulation.run(5)
    assert sorted(index for index, event in events if event == PeerUp(gone)) == [0, 2]


def test_halves_of_a_partition_drift_apart_and_agree_again() -> None:
    simulation = swarm(4)
    simulation.run(20)
    together = simulation.report().consensus_distance
    simulation.partition([0, 2], [1, 3])  # nodes of one kind of data on each side
    simulation.run(20)
    apart = simulation.report().consensus_distance
    simulation.heal()
    simulation.run(60)
    assert apart > 3 * together
    assert simulation.report().consensus_distance < 0.5 * apart


def test_a_slow_node_takes_part() -> None:
    simulation = Simulation(0)
    for index in range(4):
        simulation.add(partial(learner, index), slowdown=4.0 if index == 3 else 1.0)
    simulation.run(30)
    samples = [node.agent.samples for node in simulation.live if node.agent]
    assert samples[3] < 0.4 * samples[0]
    assert simulation.report().accuracy_min > 0.8


def test_run_until_stops_when_the_condition_holds() -> None:
    simulation = swarm(2)
    done = simulation.run_until(lambda: simulation.report().exchanges >= 10, 60)
    assert done
    assert simulation.now < 20


def test_a_node_that_is_down_cannot_crash_and_one_that_is_up_cannot_restart() -> None:
    simulation = swarm(2)
    with pytest.raises(ValueError, match="node 0 is up"):
        simulation.restart(0)
    simulation.crash(0)
    with pytest.raises(ValueError, match="node 0 is down"):
        simulation.crash(0)


def test_another_seed_gives_another_run() -> None:
    traces = [swarm(2, seed).network.trace for seed in (0, 0, 1)]
    assert traces[0] == traces[1] != traces[2]


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from test_simulation import befall, swarm
from sims.network import Link
simulation = swarm(4, 3, Link(loss=0.1, duplicate=0.05))
befall(simulation, "churn", 4, 30)
simulation.run(30)
print(simulation.report().trace)
"""


def test_the_same_seed_gives_the_same_trace_whatever_the_hash_seed() -> None:
    script = SCRIPT.format(tests=str(Path(__file__).parent))
    traces = set()
    for seed in ("0", "1", "random"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        traces.add(done.stdout)
    assert len(traces) == 1


def test_equal_models_are_at_distance_zero() -> None:
    model = torch.arange(5.0)
    assert consensus_distance([model, model]) == 0
    apart: list[Tensor] = [torch.tensor([1.0, 0.0]), torch.tensor([1.0, 2.0])]
    assert consensus_distance(apart) == pytest.approx(1 / 2**0.5)
