from functools import partial

import pytest
import torch
from torch import Tensor, nn

from gossip.learner import Batches, TorchLearner
from sims.engines import local
from sims.network import Link
from sims.simulation import Simulation, SimulationConfig
from sims.training import FEW, Alone, Pupil, Training, appearance

POINTS = torch.randn(200, 12, generator=torch.Generator().manual_seed(1))
LABELS = (POINTS @ torch.randn(12, generator=torch.Generator().manual_seed(2)) > 0).long()


def network(*extra: nn.Module) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return nn.Sequential(nn.Linear(12, 8), *extra, nn.Tanh(), nn.Linear(8, 2))


def learner(
    index: int, model: nn.Module | None = None, *, size: int = 48, **settings: float
) -> TorchLearner:
    generator = torch.Generator().manual_seed(index)
    mine = torch.randint(0, len(POINTS), (size,), generator=generator)
    return TorchLearner(
        model or network(),
        Batches(POINTS[mine], LABELS[mine], 16, generator),
        nn.functional.cross_entropy,
        partial(torch.optim.SGD, **({"lr": 0.1, "momentum": 0.9} | settings)),
        steps=6,
        test=(POINTS, LABELS),
    )


def run(config: SimulationConfig, nodes: int = 9, size: int = 48) -> Simulation:
    simulation = Simulation(0, Link(latency=(0.001, 0.005), loss=0.1), config)
    for index in range(nodes):
        simulation.add(partial(learner, index, size=size))
        simulation.run(0.05)
    simulation.run(0.4)
    simulation.crash(3)
    simulation.run(0.2)
    simulation.restart(3)
    simulation.run(0.4)
    return simulation


def test_rounds_computed_together_or_one_by_one_leave_one_trace() -> None:
    runs = [run(SimulationConfig(stack=stack)) for stack in (256, 1, 5)]
    assert len({simulation.network.trace for simulation in runs}) == 1
    assert runs[0].report().accuracy_min > 0.7
    assert all(one.training.stacked > one.training.single for one in runs)


def test_where_rows_begin_anywhere_in_memory_the_metrics_are_the_same() -> None:
    runs = [run(SimulationConfig(stack=stack), size=50) for stack in (256, 256, 1)]
    assert runs[0].network.trace == runs[1].network.trace
    together, _, single = (simulation.report() for simulation in runs)
    assert single.accuracy_mean == pytest.approx(together.accuracy_mean, abs=0.02)
    assert single.exchanges == pytest.approx(together.exchanges, rel=0.02)
    assert single.bytes_per_node == pytest.approx(together.bytes_per_node, rel=0.02)


def test_who_computes_the_rounds_changes_nothing() -> None:
    traces = {run(SimulationConfig(engine=local(workers))).network.trace for workers in (0, 1, 3)}
    assert len(traces) == 1


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_stack_computes_what_each_learner_would(momentum: float) -> None:
    settings = {"momentum": momentum, "weight_decay": 0.01}
    training = Training()
    stacked = [learner(index, **settings) for index in range(FEW + 1)]
    trainees = [training.enrol(one) for one in stacked]
    alone = [learner(index, **settings) for index in range(FEW + 1)]
    for merge in range(4):
        for trainee in trainees:
            trainee.begin()
        for trainee, one, twin in zip(trainees, stacked, alone, strict=True):
            assert trainee.finish()[1] == twin.train()
            assert one.last_loss == pytest.approx(twin.last_loss, abs=1e-5)
            merged = twin.parameters() + 0.01 * merge
            trainee.load(merged)
            twin.load(merged)
    assert training.stacked == 4 * (FEW + 1)
    for one, twin in zip(stacked, alone, strict=True):
        torch.testing.assert_close(one.parameters(), twin.parameters(), atol=1e-6, rtol=0)
        mine, theirs = one.state(), twin.state()
        assert mine.keys() == theirs.keys()
        for name in mine:
            torch.testing.assert_close(mine[name], theirs[name], atol=1e-5, rtol=1e-4)


def test_nobody_sees_a_round_before_it_ends() -> None:
    training = Training()
    learners = [learner(index) for index in range(FEW)]
    trainees = [training.enrol(one) for one in learners]
    for trainee in trainees:
        trainee.begin()
    before = [one.parameters() for one in learners]
    trainees[0].finish()
    assert training.stacked == FEW
    assert not torch.equal(learners[0].parameters(), before[0])
    for one, start in zip(learners[1:], before[1:], strict=True):
        assert torch.equal(one.parameters(), start)
        assert not any("momentum" in name for name in one.state())


def test_a_few_rounds_are_left_to_the_learners_to_the_bit() -> None:
    training = Training()
    trainees = [training.enrol(learner(index)) for index in range(FEW - 1)]
    for _ in range(3):
        for trainee in trainees:
            trainee.begin()
        found = [trainee.finish()[0].clone() for trainee in trainees]
    assert (training.stacked, training.single) == (0, 3 * (FEW - 1))
    for index, model in enumerate(found):
        twin = learner(index)
        for _ in range(3):
            twin.train()
        assert torch.equal(twin.parameters(), model)


def test_a_round_that_is_given_up_is_not_computed() -> None:
    training = Training()
    trainees = [training.enrol(learner(index)) for index in range(FEW + 1)]
    for trainee in trainees:
        trainee.begin()
    trainees[0].give_up()
    trainees[1].finish()
    assert training.stacked == FEW


def test_a_model_that_draws_at_random_trains_by_itself_and_says_why() -> None:
    training = Training()
    trainees = [training.enrol(learner(index, network(nn.Dropout()))) for index in range(FEW)]
    for trainee in trainees:
        trainee.begin()
    assert all(trainee.finish()[1] > 0 for trainee in trainees)
    assert (training.stacked, training.single) == (0, FEW)
    assert "random" in next(iter(training.refused.values()))


class Scaled(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def test_models_that_differ_in_more_than_their_parameters_are_not_alike() -> None:
    looks = [appearance(learner(0, network(Scaled(factor)))) for factor in (1.0, 1.0, 2.0)]
    assert looks[0] == looks[1] != looks[2]
    assert None not in looks
    moved = network()
    with torch.no_grad():
        next(moved.parameters()).add_(1)
    assert appearance(learner(0)) == appearance(learner(1, moved))


class Taught(nn.Module):
    """A loss with parameters of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = nn.Linear(2, 2)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs + self.teacher(outputs.detach()), targets)


def test_what_a_stack_cannot_hold_is_trained_alone() -> None:
    normed = learner(0, network(nn.BatchNorm1d(8)))
    listed = learner(0)
    listed.batches = [(POINTS, LABELS)]
    adaptive = TorchLearner(
        network(),
        Batches(POINTS, LABELS, 16, torch.Generator()),
        nn.functional.cross_entropy,
        torch.optim.Adam,
    )
    hooked = learner(0)
    hooked.optimizer.register_step_post_hook(lambda *_: None)
    scheduled = learner(0)
    torch.optim.lr_scheduler.StepLR(scheduled.optimizer, 10)
    reparametrised = learner(0, network(nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))))
    taught = learner(0)
    taught.loss = Taught()
    for one in (normed, listed, adaptive, hooked, scheduled, reparametrised, taught):
        assert isinstance(Training().enrol(one), Alone)
    assert isinstance(Training().enrol(learner(0)), Pupil)
