from functools import partial

import pytest
import torch
from torch import nn

from gossip.agent import Agent, AgentConfig
from gossip.errors import ConfigError
from gossip.learner import Batches, TorchLearner
from gossip.merging import Merge
from gossip.vector import Layout
from sims.attacks import (
    Liar,
    WrongLabels,
    hostile,
    liars,
    little,
    noise,
    replay,
    sign_flip,
)
from sims.simulation import Simulation, SimulationConfig

START, TRAINED = torch.tensor([1.0, 2.0]), torch.tensor([1.5, 1.0])


def learner(shard: int) -> TorchLearner:
    """Which of two directions a point lies in."""
    generator = torch.Generator().manual_seed(7)
    truth = torch.randn(40, generator=generator)
    points = torch.randn(400, 40, generator=generator)
    labels = (points @ truth > 0).long()
    torch.manual_seed(0)
    return TorchLearner(
        nn.Linear(40, 2),
        Batches(points[shard:300:5], labels[shard:300:5], 16, torch.Generator().manual_seed(shard)),
        nn.functional.cross_entropy,
        partial(torch.optim.SGD, lr=0.05),
        steps=2,
        test=(points[300:], labels[300:]),
    )


class Climber:
    """Each round adds one to a model of one number."""

    layout = Layout(("w",), ((1,),), ("float32",))

    def __init__(self) -> None:
        self.w = torch.zeros(1)

    def parameters(self) -> torch.Tensor:
        return self.w.clone()

    def load(self, parameters: torch.Tensor) -> None:
        self.w = parameters.clone()

    def train(self) -> int:
        self.w += 1
        return 1

    def evaluate(self) -> dict[str, float]:
        return {}


def test_sign_flip_goes_as_far_in_the_other_direction() -> None:
    assert torch.equal(sign_flip()(START, TRAINED), torch.tensor([0.5, 3.0]))
    assert torch.equal(sign_flip(4)(START, TRAINED), torch.tensor([-1.0, 6.0]))


def test_noise_is_as_strong_as_the_model() -> None:
    model = 3 * torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    forged = noise(torch.Generator().manual_seed(1), 2.0)(model, model)
    assert float((forged - model).std()) == pytest.approx(6, rel=0.05)


def test_replay_stops_at_the_model_of_its_round() -> None:
    forge = replay(2)
    models = [torch.tensor([float(i)]) for i in range(4)]
    assert [float(forge(START, model)) for model in models] == [0, 1, 1, 1]


def test_a_little_is_the_honest_mean_less_some_deviations() -> None:
    honest = [torch.tensor([0.0, 5.0]), torch.tensor([2.0, 5.0])]
    assert torch.equal(little(lambda: honest, 2.0)(START, TRAINED), torch.tensor([-1.0, 5.0]))


def test_wrong_labels_are_those_of_the_opposite_class() -> None:
    batches = [(torch.zeros(3, 2), torch.tensor([0, 1, 9]))]
    ((_, targets),) = WrongLabels(batches, 10)
    assert targets.tolist() == [9, 8, 0]


def test_a_liar_shows_the_lie_and_goes_on_from_what_it_is_handed() -> None:
    liar = Liar(Climber(), sign_flip())
    liar.train()
    assert float(liar.parameters()) == -1
    liar.load(torch.tensor([5.0]))
    assert float(liar.parameters()) == 5
    liar.train()
    assert float(liar.parameters()) == 4


def test_the_share_of_liars_is_the_nearest_and_the_seed_tells_who() -> None:
    assert len(liars(0, 16, 0.2)) == 3
    assert liars(1, 16, 0.2) == liars(1, 16, 0.2) != liars(2, 16, 0.2)


def test_somebody_must_be_honest() -> None:
    with pytest.raises(ConfigError, match="none of 3 nodes is honest"):
        liars(0, 3, 0.9)


@pytest.mark.parametrize(
    ("name", "scale", "highest"),
    [("sign-flip", 20, 0.7), ("noise", 1, 0.8), ("little", None, 1), ("replay", None, 1)],
)
def test_attackers_speak_the_real_protocol_and_the_report_is_about_the_others(
    name: str, scale: float | None, highest: float
) -> None:
    simulation = Simulation(0)
    for index in range(5):
        make = partial(learner, index)
        if index == 2:
            simulation.add(hostile(name, make, simulation, index, scale=scale), hostile=True)
        else:
            simulation.add(make)
        simulation.run(0.2)
    simulation.run(8)
    liar, honest = simulation.nodes[2].agent, simulation.nodes[0].agent
    assert liar is not None
    assert honest is not None
    assert liar.stats.exchanges > 30, "others exchange with it"
    report = simulation.report()
    accuracies = [node.learner.evaluate()["accuracy"] for node in simulation.nodes]
    assert report.accuracy_mean == pytest.approx((sum(accuracies) - accuracies[2]) / 4)
    assert report.accuracy_mean < highest


def test_wrongly_taught_nodes_learn_the_opposite() -> None:
    simulation = Simulation(0)
    simulation.add(hostile("label-flip", partial(learner, 0), simulation, 0))
    simulation.run(20)
    assert simulation.report().accuracy_mean < 0.3


def test_labels_of_what_has_no_classes_cannot_be_flipped() -> None:
    with pytest.raises(ConfigError, match="needs a TorchLearner"):
        hostile("label-flip", Climber, Simulation(0), 0)()


def test_an_unknown_attack_is_refused() -> None:
    with pytest.raises(ValueError, match="no attack 'gossip'"):
        hostile("gossip", Climber, Simulation(0), 0)()


@pytest.mark.parametrize(
    ("name", "scale", "merge"),
    [
        ("sign-flip", 20, "clipped"),
        ("noise", None, "clipped"),
        ("noise", None, "trimmed"),
    ],
)
def test_guarded_merging_keeps_honest_nodes_able(
    name: str, scale: float | None, merge: Merge
) -> None:
    config = SimulationConfig(agent=AgentConfig(merge=merge))
    simulation = Simulation(0, None, config)
    for index in range(5):
        make = partial(learner, index)
        lies = index == 2
        if lies:
            make = hostile(name, make, simulation, index, scale=scale)
        simulation.add(make, hostile=lies)
        simulation.run(0.2)
    simulation.run(8)
    assert simulation.report().accuracy_min > 0.7  # chance is 0.5
    liar = simulation.nodes[2].peer.id
    agents = [node.agent for node in simulation.live if not node.hostile]
    trust = {
        peer: one.guard.trust.of(peer)
        for one in agents
        if isinstance(one, Agent)
        for peer in one.links
    }
    if liar in trust:
        assert trust.pop(liar) < min(0.2, *trust.values())


def test_who_merges_everything_looks_at_nobody() -> None:
    simulation = Simulation(0)
    for index in range(2):
        simulation.add(partial(learner, index))
    simulation.run(3)
    one = simulation.nodes[0].agent
    assert isinstance(one, Agent)
    assert one.links
    assert one.probe() is None
