from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from gossip.errors import CodecError, ConfigError
from gossip.learner import Batches, TorchLearner
from p2p import Address, Channel, Packet, PeerId
from sims.algorithms import OURS, with_algorithm
from sims.baselines import (
    ADPSGD,
    BASELINES,
    DPSGD,
    Algorithm,
    AllReduce,
    BaselineAgent,
    Choco,
    EdgeChoco,
    ELLocal,
    ELOracle,
    NoLoCo,
    Place,
    PushSum,
)
from sims.baselines.algorithm import SHARE, Word, dense
from sims.experiment import ALGORITHMS
from sims.network import Link
from sims.simulation import Simulation, SimulationConfig

SIZE = 60


class Crowd:
    """Instances of one algorithm, everybody a neighbour of everybody; words arrive in order."""

    def __init__(self, kind: type[Algorithm], count: int, **settings: float) -> None:
        self.ids = [PeerId(bytes([i]) * 32) for i in range(count)]
        generator = torch.Generator().manual_seed(1)
        self.nodes = {
            me: kind(
                Place(me, torch.randn(SIZE, generator=generator), Random(i), lambda: self.ids),
                **settings,
            )
            for i, me in enumerate(self.ids)
        }
        self.start = self.mean()
        self.words: deque[tuple[PeerId, PeerId, Word, bytes]] = deque()
        self.sent = 0
        for me in self.ids:
            for other in self.ids:
                if other != me:
                    self.nodes[me].up(other)

    def round(self, progress: Tensor | None = None, only: Iterable[int] | None = None) -> None:
        """All train, then all that is said is heard."""
        for i in range(len(self.ids)) if only is None else only:
            node = self.nodes[self.ids[i]]
            if not node.waiting:
                node.trained(torch.zeros(SIZE) if progress is None else progress)
        self.settle()

    def settle(self) -> None:
        while any(node.outbox for node in self.nodes.values()):
            for me, node in self.nodes.items():
                while node.outbox:
                    to, word, body = node.outbox.popleft()
                    self.sent += len(body)
                    self.words.append((me, to, word, body))
            while self.words:
                me, to, word, body = self.words.popleft()
                self.nodes[to].heard(me, word, memoryview(body))

    def mean(self) -> Tensor:
        return torch.stack([node.x for node in self.nodes.values()]).double().mean(dim=0)

    def spread(self) -> float:
        stacked = torch.stack([node.x for node in self.nodes.values()])
        return float((stacked - stacked.mean(dim=0)).norm())


MIXING = [
    (AllReduce, {}, 1),
    (DPSGD, {}, 30),
    (Choco, {"gamma": 0.1}, 150),
    (ADPSGD, {}, 40),
    (EdgeChoco, {"gamma": 0.2}, 200),
    (PushSum, {}, 60),
    (ELLocal, {}, 40),
    (ELOracle, {}, 40),
    (NoLoCo, {"every": 1}, 60),
]


@pytest.mark.parametrize(("kind", "settings", "rounds"), MIXING)
def test_without_training_everybody_comes_to_hold_one_model(
    kind: type[Algorithm], settings: dict[str, float], rounds: int
) -> None:
    crowd = Crowd(kind, 6, **settings)
    before = crowd.spread()
    for _ in range(rounds):
        crowd.round()
    assert crowd.spread() < 0.02 * before


@pytest.mark.parametrize("kind", [AllReduce, DPSGD, Choco, ADPSGD, EdgeChoco])
def test_mixing_leaves_the_mean_where_training_puts_it(kind: type[Algorithm]) -> None:
    crowd = Crowd(kind, 5)
    for _ in range(20):
        crowd.round(torch.full((SIZE,), 0.5))
    expected = crowd.start + 10
    assert float((crowd.mean() - expected).abs().max()) < 1e-4


def test_push_sum_keeps_the_mean_although_its_weights_differ() -> None:
    crowd = Crowd(PushSum, 5)
    for _ in range(100):
        crowd.round()
    assert float((crowd.mean() - crowd.start).abs().max()) < 1e-4


def test_who_answers_too_gets_two_questions_that_cross_as_one_swap() -> None:
    crowd = Crowd(ADPSGD, 2)
    crowd.round()
    assert [node.merges for node in crowd.nodes.values()] == [1, 1]
    assert crowd.spread() < 1e-4


def test_in_rounds_nobody_goes_on_before_all_neighbours_have_spoken() -> None:
    crowd = Crowd(DPSGD, 3)
    crowd.round(only=[0, 1])
    waiting = [node.waiting for node in crowd.nodes.values()]
    assert waiting == [True, True, False]
    crowd.round(only=[2])
    assert not any(node.waiting for node in crowd.nodes.values())


def test_in_rounds_a_neighbour_that_is_gone_holds_nobody_up() -> None:
    crowd = Crowd(DPSGD, 3)
    crowd.round(only=[0, 1])
    for i in (0, 1):
        crowd.nodes[crowd.ids[i]].down(crowd.ids[2])
    assert [node.waiting for node in crowd.nodes.values()] == [False, False, False]


def test_in_rounds_what_was_lost_is_said_again() -> None:
    crowd = Crowd(Choco, 2)
    first, second = crowd.nodes.values()
    crowd.round()
    first.trained(torch.ones(SIZE))
    second.trained(torch.zeros(SIZE))
    first.outbox.clear()
    crowd.settle()
    assert (first.waiting, second.waiting) == (False, True)
    first.trained(torch.zeros(SIZE))
    first.outbox.clear()
    first.repeat()
    second.repeat()
    crowd.settle()
    assert not second.waiting


def test_choco_sends_a_new_neighbour_all_it_needs() -> None:
    crowd = Crowd(Choco, 3, density=0.2, gamma=0.2)
    ids, nodes = crowd.ids, crowd.nodes
    for a, b in ((0, 2), (2, 0)):
        nodes[ids[a]].down(ids[b])
    for _ in range(30):
        crowd.round()
    before = crowd.spread()
    for a, b in ((0, 2), (2, 0)):
        nodes[ids[a]].up(ids[b])
    for _ in range(100):
        crowd.round()
    assert crowd.spread() < 0.2 * before
    assert float((crowd.mean() - crowd.start).abs().max()) < 1e-4


def test_noloco_talks_every_so_many_rounds_only() -> None:
    crowd = Crowd(NoLoCo, 4, every=5)
    for _ in range(4):
        crowd.round()
    assert crowd.sent == 0
    crowd.round()
    assert crowd.sent > 0


def test_el_oracle_gives_everybody_as_many_models() -> None:
    crowd = Crowd(ELOracle, 7, s=3)
    for node in crowd.nodes.values():
        node.trained(torch.zeros(SIZE))
    got = [to for node in crowd.nodes.values() for to, _, _ in node.outbox]
    assert {got.count(peer) for peer in crowd.ids} == {3}


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "isolated"])
@given(body=st.binary(max_size=40), kind=st.integers(0, 3))
def test_bodies_that_make_no_sense_are_refused_and_change_nothing(
    name: str, body: bytes, kind: int
) -> None:
    crowd = Crowd(BASELINES[name], 3)
    node, other = crowd.nodes[crowd.ids[0]], crowd.ids[1]
    before = node.x.clone()
    try:
        node.heard(other, Word(kind, 1, 2), memoryview(body))
    except CodecError:
        assert torch.equal(node.x, before)
    assert bool(torch.isfinite(node.x).all())


def test_a_vector_with_nan_is_refused() -> None:
    crowd = Crowd(DPSGD, 2)
    body = memoryview(dense(torch.full((SIZE,), float("nan"))))
    with pytest.raises(CodecError, match="NaN"):
        crowd.nodes[crowd.ids[0]].heard(crowd.ids[1], Word(SHARE, 1, 1), body)


# in the simulator ---------------------------------------------------------------------------------


def learner(shard: int) -> TorchLearner:
    """Which of two directions a point lies in; each shard sees one of them only."""
    generator = torch.Generator().manual_seed(7)
    truth = torch.randn(40, generator=generator)
    points = torch.randn(400, 40, generator=generator)
    labels = (points @ truth > 0).long()
    mine = labels[:300] == shard % 2
    torch.manual_seed(0)
    return TorchLearner(
        nn.Linear(40, 2),
        Batches(points[:300][mine], labels[:300][mine], 16, torch.Generator().manual_seed(shard)),
        nn.functional.cross_entropy,
        partial(torch.optim.SGD, lr=0.05),
        steps=2,
        test=(points[300:], labels[300:]),
        drift_correction=0,
    )


def swarm(
    name: str, nodes: int = 4, link: Link | None = None, settings: dict[str, str] | None = None
) -> Simulation:
    config = with_algorithm(SimulationConfig(), name, settings or {})
    simulation = Simulation(0, link or Link(latency=(0.001, 0.005)), config)
    for index in range(nodes):
        simulation.add(partial(learner, index))
        simulation.run(0.2)
    return simulation


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "isolated"])
def test_in_the_simulator_nodes_learn_what_none_of_them_could_alone(name: str) -> None:
    simulation = swarm(name)
    simulation.run(8)
    report = simulation.report()
    assert report.accuracy_min > 0.8
    assert report.exchanges > 10
    assert all(node.rounds > 40 for node in simulation.nodes)


def test_alone_nobody_learns_it_and_next_to_nothing_is_sent() -> None:
    simulation = swarm("isolated")
    simulation.run(8)
    report = simulation.report()
    assert report.accuracy_mean < 0.7
    assert report.exchanges == 0
    assert report.bytes_per_node < 10_000


def test_a_straggler_holds_up_those_that_work_in_rounds_and_nobody_else() -> None:
    done = {}
    for name in ("d-psgd", "ad-psgd"):
        config = with_algorithm(SimulationConfig(), name, {})
        simulation = Simulation(0, Link(latency=(0.001, 0.005)), config)
        for index in range(4):
            simulation.add(partial(learner, index), slowdown=4.0 if index == 3 else 1.0)
        simulation.run(6)
        done[name] = simulation.nodes[0].rounds
    assert done["d-psgd"] < 0.5 * done["ad-psgd"]


@pytest.mark.parametrize("name", ["all-reduce", "choco"])
def test_after_a_crash_and_a_partition_all_go_on(name: str) -> None:
    simulation = swarm(name, link=Link(latency=(0.001, 0.005), loss=0.1))
    simulation.crash(1)
    simulation.call_at(simulation.now + 4, simulation.restart, 1)
    simulation.call_at(simulation.now + 6, simulation.partition, [0, 2], [1, 3])
    simulation.call_at(simulation.now + 8, simulation.heal)
    simulation.run(16)
    before = [node.rounds for node in simulation.nodes]
    simulation.run(4)
    assert len(simulation.live) == 4
    for node, rounds in zip(simulation.nodes, before, strict=True):
        assert node.rounds > rounds + 10, "nobody waits for ever"


def test_nodes_of_an_algorithm_that_diverges_end_and_the_simulation_goes_on() -> None:
    simulation = swarm("choco", settings={"gamma": "100"})
    simulation.run(20)
    assert not simulation.live


def test_who_claims_to_be_in_a_round_beyond_all_others_is_refused() -> None:
    crowd = Crowd(DPSGD, 2)
    word = Word(SHARE, 2**62, 1)
    with pytest.raises(CodecError, match="nobody has come to round"):
        crowd.nodes[crowd.ids[0]].heard(crowd.ids[1], word, memoryview(dense(torch.ones(SIZE))))


def test_the_same_seed_gives_the_same_trace() -> None:
    traces = []
    for _ in range(2):
        simulation = swarm("el-local", 4)
        simulation.run(3)
        traces.append(simulation.network.trace)
    assert traces[0] == traces[1]


def test_nobody_trains_before_the_beginning() -> None:
    simulation = Simulation(0, config=SimulationConfig(begin=5.0))
    simulation.add(partial(learner, 0))
    simulation.run(5.0)
    assert simulation.nodes[0].rounds == 0
    simulation.run(1.0)
    assert simulation.nodes[0].rounds > 5


@given(data=st.binary(max_size=60))
def test_no_bytes_make_an_agent_raise(data: bytes) -> None:
    simulation = swarm("d-psgd", 1)
    agent = simulation.nodes[0].agent
    assert isinstance(agent, BaselineAgent)
    for packet in (data, b"\xc1" + data):
        agent.receive(Packet(agent.me.address, packet, Channel.STREAM), simulation.now)
        stranger = Address("10.9.9.9", 1)
        agent.receive(Packet(stranger, packet, Channel.STREAM), simulation.now)


# by name ------------------------------------------------------------------------------------------


def test_the_command_line_knows_every_algorithm() -> None:
    assert set(ALGORITHMS) == {OURS, *BASELINES}


def test_settings_reach_the_algorithm() -> None:
    config = with_algorithm(SimulationConfig(), OURS, {"density": "0.05", "bits": "2"})
    assert config.agent.exchange.codec == replace(config.agent.exchange.codec, density=0.05, bits=2)
    config = with_algorithm(SimulationConfig(), "choco", {"gamma": "0.9"})
    assert config.baseline is not None
    place = Place(PeerId(bytes(32)), torch.zeros(3), Random(0), list)
    assert vars(config.baseline(place))["_gamma"] == 0.9


@pytest.mark.parametrize(
    ("name", "settings", "text"),
    [
        ("gossip", {}, "no algorithm gossip"),
        ("choco", {"gama": "1"}, "no setting gama; there are gamma"),
        ("isolated", {"gamma": "1"}, "it has none"),
        ("choco", {"gamma": "much"}, "not a number"),
        ("choco", {"density": "2"}, "density is a share"),
        (OURS, {"bits": "9"}, "bits is 1 to 8"),
        ("noloco", {"every": "0"}, "at least 1"),
        ("el-local", {"s": "0"}, "at least 1"),
    ],
)
def test_what_cannot_be_set_is_refused(name: str, settings: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        with_algorithm(SimulationConfig(), name, settings)
