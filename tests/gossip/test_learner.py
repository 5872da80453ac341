"""A `TorchLearner` trains as a loop of your own would, and leaves everything else alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from math import isfinite, isnan

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.optim import SGD, Adam, Optimizer

from gossip.errors import LayoutError
from gossip.learner import (
    EVALUATION_BATCH,
    PROBED,
    Answering,
    Batch,
    Batches,
    TorchLearner,
    class_accuracy,
)

INPUTS = torch.randn(40, 4, generator=torch.Generator().manual_seed(1))
TARGETS = (INPUTS[:, 0] > 0).long()
DATA = (INPUTS, TARGETS)


def network(seed: int = 0, *, dropout: float = 0.0, norm: bool = False) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        middle = [nn.BatchNorm1d(8)] if norm else []
        return nn.Sequential(
            nn.Linear(4, 8), *middle, nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 2)
        )


def batches(seed: int = 0, size: int = 10) -> Batches:
    return Batches(*DATA, size, torch.Generator().manual_seed(seed))


def learner(model: nn.Module | None = None, **options: object) -> TorchLearner:
    options = {"test": DATA} | options
    return TorchLearner(model or network(), batches(), cross_entropy, **options)  # type: ignore[arg-type]


def trained(one: TorchLearner, rounds: int) -> TorchLearner:
    for _ in range(rounds):
        one.train()
    return one


# training ----------------------------------------------------------------------------------------


def test_training_lowers_the_loss_and_raises_the_accuracy() -> None:
    one = learner()
    before = one.evaluate()
    trained(one, 20)
    after = one.evaluate()
    assert after["loss"] < before["loss"] / 2
    assert after["accuracy"] > 0.9


def test_a_round_takes_so_many_steps_and_counts_the_samples() -> None:
    steps: list[int] = []
    one = learner(steps=7)
    one.optimizer.register_step_post_hook(lambda *_: steps.append(1))
    assert one.train() == 70
    assert len(steps) == 7


def test_the_last_loss_is_the_mean_over_the_batches_of_the_round() -> None:
    one = TorchLearner(network(), [DATA], cross_entropy, lambda p: SGD(p, lr=0.0), test=DATA)
    assert one.last_loss is None
    one.train()
    assert one.last_loss == pytest.approx(one.evaluate()["loss"])


@pytest.mark.parametrize("optimizer", [lambda p: SGD(p, lr=0.1, momentum=0.9), Adam])
def test_who_never_loads_a_model_trains_to_the_bit_as_a_plain_loop(
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
) -> None:
    one = trained(learner(optimizer=optimizer), 4)
    model, feed = network(), batches()
    plain = optimizer(model.parameters())
    for _ in range(10):
        for inputs, targets in feed:
            plain.zero_grad()
            cross_entropy(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
            plain.step()
    for ours, theirs in zip(one.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_same_seed_gives_the_same_bytes_whatever_else_draws_random_numbers() -> None:
    one = learner(network(dropout=0.5), seed=3)
    other = learner(network(dropout=0.5), seed=3)
    trained(one, 3)
    for _ in range(3):
        torch.rand(17)
        other.train()
        other.evaluate()
    assert torch.equal(one.parameters(), other.parameters())


def test_another_seed_gives_other_dropout() -> None:
    one, other = (learner(network(dropout=0.5), seed=seed) for seed in (3, 4))
    assert not torch.equal(trained(one, 1).parameters(), trained(other, 1).parameters())


def test_with_a_seed_training_leaves_the_global_randomness_alone() -> None:
    one = learner(network(dropout=0.5), seed=3)
    before = torch.get_rng_state()
    one.train()
    assert torch.equal(torch.get_rng_state(), before)


def test_rounds_of_one_seed_do_not_repeat_the_same_dropout() -> None:
    one = TorchLearner(
        network(dropout=0.5), [DATA], cross_entropy, lambda p: SGD(p, lr=0.0), steps=1, seed=3
    )
    losses = []
    for _ in range(5):
        one.train()
        losses.append(one.last_loss)
    assert len(set(losses)) == 5


def test_a_list_of_batches_is_gone_through_again_and_again() -> None:
    one = TorchLearner(network(), [DATA, DATA], cross_entropy, steps=5)
    assert [one.train(), one.train()] == [200, 200]


@pytest.mark.parametrize("feed", [[], iter([DATA])])
def test_batches_that_run_out_are_an_error_that_tells_what_to_use(feed: Iterable[Batch]) -> None:
    one = TorchLearner(network(), feed, cross_entropy, steps=2)
    with pytest.raises(ValueError, match=rf"{type(feed).__name__}.*gossip's Batches"):
        one.train()


# parameters --------------------------------------------------------------------------------------


def test_loading_its_own_parameters_changes_nothing() -> None:
    one = trained(learner(network(norm=True)), 1)
    before = {name: value.clone() for name, value in one.model.state_dict().items()}
    one.load(one.parameters())
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, before[name])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_what_is_loaded_is_what_parameters_then_gives(seed: int) -> None:
    one = learner(network(norm=True))
    vector = torch.randn(one.layout.size, generator=torch.Generator().manual_seed(seed))
    one.load(vector)
    assert torch.equal(one.parameters(), vector)


def test_parameters_are_a_copy() -> None:
    one = learner()
    before = one.parameters()
    kept = before.clone()
    one.train()
    assert torch.equal(before, kept)
    one.load(before)
    before.zero_()
    assert torch.equal(one.parameters(), kept)


def test_a_merged_model_is_trained_on_with_the_optimizer_as_it_was() -> None:
    one = learner(optimizer=lambda p: SGD(p, lr=0.1, momentum=0.9))
    one.train()
    momentum = [state["momentum_buffer"].clone() for state in one.optimizer.state.values()]
    one.load(torch.zeros(one.layout.size))
    kept = [state["momentum_buffer"] for state in one.optimizer.state.values()]
    assert all(torch.equal(a, b) for a, b in zip(momentum, kept, strict=True))
    assert one.train() > 0


# evaluation --------------------------------------------------------------------------------------


def test_evaluating_leaves_randomness_training_mode_and_parameters_as_they_were() -> None:
    class Noisy(nn.Dropout):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) + 0 * torch.rand(())

    model = nn.Sequential(network(norm=True), Noisy(0.5))
    model.train()
    model[0].eval()
    one = learner(model)
    modes = [module.training for module in model.modules()]
    state, parameters = torch.get_rng_state(), one.parameters()
    one.evaluate()
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.parameters(), parameters)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_failing_evaluation_restores_the_training_mode_too() -> None:
    model = network().train()
    with pytest.raises(RuntimeError):
        learner(model, test=(torch.zeros(3, 5), torch.zeros(3).long())).evaluate()
    assert all(module.training for module in model.modules())


def test_evaluation_does_not_disturb_the_training() -> None:
    one, other = learner(network(dropout=0.3), seed=1), learner(network(dropout=0.3), seed=1)
    for _ in range(3):
        one.train()
        other.train()
        other.evaluate()
    assert torch.equal(one.parameters(), other.parameters())


def test_a_probe_tells_the_losses_of_both_models_on_the_first_samples() -> None:
    one = trained(learner(), 3)
    other = trained(learner(network(1)), 30).parameters()
    theirs, ours = one.probe(other)
    assert theirs < ours
    assert one.probe(one.parameters()) == (ours, ours)
    assert one.probe(other) == (theirs, ours), "the samples are always the same"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_probe_leaves_randomness_training_mode_and_parameters_as_they_were(
    dtype: torch.dtype,
) -> None:
    one, undisturbed = (
        (trained(learner(network(dropout=0.5, norm=True).to(dtype), seed=3), 1) for _ in range(2))
        if dtype == torch.float32
        else (learner(network().to(dtype)) for _ in range(2))
    )
    before, state = one.parameters(), torch.get_rng_state()
    one.probe(-before)
    assert torch.equal(one.parameters(), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert one.model.training == undisturbed.model.training
    if dtype == torch.float32:
        assert torch.equal(trained(one, 2).parameters(), trained(undisturbed, 2).parameters())


def test_a_probe_puts_back_what_float32_cannot_hold() -> None:
    model = network().double()
    one = TorchLearner(model, [(INPUTS.double(), TARGETS)], cross_entropy, partial(SGD, lr=0.1))
    one.train()
    before = [tensor.clone() for tensor in model.parameters()]
    one.probe(-one.parameters())
    assert all(map(torch.equal, model.parameters(), before))


def test_a_model_on_which_the_loss_raises_is_no_number_and_stops_nobody() -> None:
    def picky(outputs: Tensor, targets: Tensor) -> Tensor:
        if not bool(torch.isfinite(outputs).all()):
            raise RuntimeError("all elements of input should be between 0 and 1")
        return cross_entropy(outputs, targets)

    one = TorchLearner(network(), [(INPUTS, TARGETS)], picky, partial(SGD, lr=0.1))
    one.train()
    before = one.parameters()
    theirs, ours = one.probe(torch.full_like(before, 9e29))
    assert isnan(theirs)
    assert isfinite(ours)
    assert torch.equal(one.parameters(), before)


def test_a_probe_holds_a_few_samples_however_large_the_batches_are() -> None:
    many = INPUTS.repeat(50, 1), TARGETS.repeat(50)
    assert not learner().trained_on(many), "no more are wanted"
    one = learner()
    one.trained_on(many)
    assert sum(len(inputs) for inputs, _ in one._probed) == PROBED


def test_before_there_are_samples_a_probe_tells_nothing() -> None:
    one = learner()
    assert all(map(isnan, one.probe(one.parameters())))


def test_a_large_test_set_is_evaluated_as_a_whole() -> None:
    many = (INPUTS.repeat(60, 1), TARGETS.repeat(60))
    assert learner(test=many).evaluate() == pytest.approx(learner().evaluate(), abs=1e-5)


def test_without_a_test_set_there_are_no_metrics() -> None:
    assert learner(test=None).evaluate() == {}


def test_metrics_of_the_users_own_replace_the_accuracy() -> None:
    one = learner(metrics=lambda outputs, targets: {"n": len(targets), "mean": outputs.mean()})
    assert one.evaluate().keys() == {"loss", "n", "mean"}
    assert one.evaluate()["n"] == 40.0


def test_a_regression_has_no_accuracy() -> None:
    data = (INPUTS, INPUTS[:, :2])
    assert TorchLearner(network(), [data], mse_loss, test=data).evaluate().keys() == {"loss"}


def test_the_accuracy_is_the_share_of_right_classes() -> None:
    outputs = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert class_accuracy(outputs, torch.tensor([1, 0, 0, 1])) == {"accuracy": 0.75}
    pixels = torch.stack([outputs, outputs]).permute(0, 2, 1)  # (2, 2 classes, 4)
    assert class_accuracy(pixels, torch.ones(2, 4).long()) == {"accuracy": 0.75}
    assert class_accuracy(outputs, outputs) == {}


# what is shared ----------------------------------------------------------------------------------


def test_a_head_of_ones_own_trains_and_is_never_loaded_over() -> None:
    one, other = learner(keep=["3.*"]), learner(network(7), keep=["3.*"])
    assert one.layout.names == ("0.weight", "0.bias")
    before = other.model[3].weight.clone()  # type: ignore[index, union-attr, operator]
    trained(one, 2)
    other.load(one.parameters())
    assert torch.equal(other.parameters(), one.parameters())
    assert torch.equal(other.model[3].weight, before)  # type: ignore[index, union-attr, arg-type]
    trained(other, 1)
    assert not torch.equal(other.model[3].weight, before)  # type: ignore[index, union-attr, arg-type]


def test_only_adapters_may_be_shared() -> None:
    model = nn.Sequential(network(), nn.Linear(2, 2))
    model[1].register_parameter("lora_a", nn.Parameter(torch.zeros(2, 1)))
    assert learner(model, share=["*lora_*"]).layout.names == ("1.lora_a",)
    with pytest.raises(LayoutError, match=r"'\*lora_\*' would match 1.lora_a"):
        learner(model, share=["lora_"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision_the_vector_is_float32_and_the_model_stays_as_it_is(
    dtype: torch.dtype,
) -> None:
    model = network(norm=True).to(dtype)
    half = TorchLearner(model, [(INPUTS.to(dtype), TARGETS)], cross_entropy)
    half.train()
    vector = half.parameters()
    assert vector.dtype == torch.float32
    half.load(vector)
    assert torch.equal(half.parameters(), vector)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {dtype, torch.int64}


def test_a_wrapped_model_is_of_the_layout_of_the_plain_one() -> None:
    wrapped = learner(nn.DataParallel(network()))
    assert wrapped.layout == learner().layout
    wrapped.load(learner(network(3)).parameters())
    assert torch.equal(wrapped.parameters(), learner(network(3)).parameters())
    assert wrapped.train() == 100


def test_a_model_of_one_parameter_trains_and_is_shared() -> None:
    data = (torch.ones(4, 1), torch.full((4, 1), 3.0))
    one = TorchLearner(nn.Linear(1, 1, bias=False), [data], mse_loss)
    assert one.layout.size == 1
    trained(one, 5)
    assert one.parameters().item() == pytest.approx(3.0, abs=1e-2)


def test_frozen_parameters_are_shared_and_stay_as_they_are() -> None:
    model = network()
    model[0].weight.requires_grad_(False)
    one = trained(learner(model), 2)
    assert torch.equal(one.parameters()[:32], learner().parameters()[:32])


# making ------------------------------------------------------------------------------------------


def test_an_optimizer_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match="SGD updates none of the model's parameters"):
        learner(optimizer=SGD(network().parameters(), lr=0.1))


def test_an_optimizer_that_is_ready_is_used() -> None:
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1)
    assert learner(model, optimizer=optimizer).optimizer is optimizer


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"test": (INPUTS, TARGETS[:5])}, "40 inputs and 5 targets"),
        ({"test": (INPUTS[:0], TARGETS[:0])}, "0 inputs and 0 targets"),
        ({"drift_correction": -1.0}, "not -1.0"),
        ({"drift_correction": 0.1, "optimizer": Adam}, "drift_correction=0.1 .* not Adam"),
    ],
)
def test_settings_that_make_no_sense_are_refused_with_their_value(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        learner(**options)  # type: ignore[arg-type]


# drift correction --------------------------------------------------------------------------------


def after_merges(correction: float | None, optimizer: type[Optimizer] = SGD) -> Tensor:
    one = learner(optimizer=lambda p: optimizer(p, lr=0.05), drift_correction=correction)  # type: ignore[call-arg]
    for _ in range(3):
        one.train()
        one.load(one.parameters() * 0.9)
    one.train()
    return one.parameters()


def test_the_drift_correction_is_on_with_sgd_and_can_be_switched_off() -> None:
    assert torch.equal(after_merges(None), after_merges(0.1))
    assert not torch.equal(after_merges(None), after_merges(0.0))


def test_the_drift_correction_is_off_with_other_optimizers() -> None:
    assert torch.equal(after_merges(None, Adam), after_merges(0.0, Adam))


# batches -----------------------------------------------------------------------------------------


@given(st.integers(1, 50), st.integers(1, 60), st.integers(0, 1000))
def test_a_pass_gives_every_sample_once_in_few_batches_of_even_size(
    samples: int, size: int, seed: int
) -> None:
    inputs = torch.arange(samples)
    feed = Batches(inputs, -inputs, size, torch.Generator().manual_seed(seed))
    for _ in range(2):
        given = list(feed)
        assert all(torch.equal(batch, -targets) for batch, targets in given)
        assert Counter(torch.cat([batch for batch, _ in given]).tolist()) == Counter(range(samples))
        sizes = {len(batch) for batch, _ in given}
        assert max(sizes) <= size
        assert max(sizes) - min(sizes) <= 1
        assert len(given) == len(feed) == -(-samples // size)


def test_the_order_is_new_on_every_pass_and_depends_on_the_generator_alone() -> None:
    def passes(seed: int) -> list[list[int]]:
        feed = Batches(torch.arange(40), torch.arange(40), 40, torch.Generator().manual_seed(seed))
        return [inputs.tolist() for _ in range(2) for inputs, _ in feed]

    first, second = passes(5)
    assert first != second
    assert passes(5) == [first, second]
    assert passes(6) != [first, second]


@pytest.mark.parametrize(
    ("inputs", "targets", "size", "message"),
    [
        (INPUTS, TARGETS[:5], 10, "40 inputs and 5 targets"),
        (INPUTS[:0], TARGETS[:0], 10, "no samples"),
        (INPUTS, TARGETS, 0, "not 0"),
    ],
)
def test_batches_that_cannot_be_made_are_refused(
    inputs: Tensor, targets: Tensor, size: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Batches(inputs, targets, size, torch.Generator())


def test_a_prediction_is_what_the_model_says_of_each_input_and_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(2, 1), nn.Dropout(0.5))
    data = Batches(torch.randn(8, 2), torch.randn(8, 1), 4, torch.Generator())
    plain = TorchLearner(model, data, nn.functional.mse_loss)
    model.train()
    state = torch.get_rng_state()
    raw = [[1.0, 2.0]] * (EVALUATION_BATCH + 1)
    assert isinstance(plain, Answering)
    answers = plain.predict(raw)
    expected = model[0](torch.tensor([1.0, 2.0])).tolist()
    assert answers[0] == answers[-1] == pytest.approx(expected)
    assert len(answers) == len(raw)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert plain.predict([]) == []


def test_what_is_raw_is_prepared_and_what_is_said_is_put_into_words() -> None:
    learner = TorchLearner(
        nn.Linear(1, 2),
        Batches(torch.randn(8, 1), torch.zeros(8, dtype=torch.long), 4, torch.Generator()),
        cross_entropy,
        prepare=lambda text: torch.tensor([float(text)]),
        answer=lambda scores: "left" if scores[0] > scores[1] else "right",
    )
    assert {*learner.predict(["-1e6", "1e6"])} == {"left", "right"}
    with pytest.raises(ValueError, match="could not convert"):
        learner.predict(["sideways"])
