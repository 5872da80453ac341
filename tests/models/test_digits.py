"""The digits: what nodes share, what they do not, and what one can learn."""

from __future__ import annotations

from itertools import combinations
from typing import Literal

import numpy as np
import pytest
import torch

from gossip.errors import TargetError
from gossip.learner import Batches, TorchLearner
from gossip.target import build, load
from models import digits

SHARDS = 5


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def data_of(learner: TorchLearner) -> Batches:
    assert isinstance(learner.batches, Batches)
    return learner.batches


def swarm(**options: object) -> list[TorchLearner]:
    return [digits.learner(shard, SHARDS, **options) for shard in range(SHARDS)]  # type: ignore[arg-type]


def images(learner: TorchLearner) -> set[bytes]:
    return {image.numpy().tobytes() for image in data_of(learner).inputs}


def trained(learner: TorchLearner, rounds: int) -> float:
    for _ in range(rounds):
        learner.train()
    return learner.evaluate()["accuracy"]


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_all_nodes_start_from_the_same_weights(model: str) -> None:
    first, *others = swarm(model=model)
    for other in others:
        assert torch.equal(first.parameters(), other.parameters())
        assert first.layout == other.layout


def test_another_seed_gives_other_weights_and_another_model_another_layout() -> None:
    one = digits.learner(seed=0)
    assert not torch.equal(one.parameters(), digits.learner(seed=1).parameters())
    assert one.layout != digits.learner(model="cnn").layout


def test_making_a_learner_draws_nothing_from_the_global_generator() -> None:
    before = torch.get_rng_state()
    digits.learner()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("split", ["iid", "dirichlet", "shards"])
def test_nodes_have_different_data_and_together_all_of_it(split: str) -> None:
    nodes = swarm(split=split)
    shards = [images(node) for node in nodes]
    for one, other in combinations(shards, 2):
        assert not one & other
    everything = digits.learner()
    assert set.union(*shards) == images(everything)
    assert sum(len(data_of(node).inputs) for node in nodes) == len(data_of(everything).inputs)


def test_the_test_set_is_the_same_fifth_for_everybody_and_nobody_trains_on_it() -> None:
    everything, _ = digits.load_digits()
    first, *others = [*swarm(), *swarm(split="shards", seed=3)]
    assert first.test is not None
    tested = {image.numpy().tobytes() for image in first.test[0]}
    assert len(first.test[0]) / len(everything) == pytest.approx(0.2, abs=0.005)
    for other in others:
        assert other.test is not None
        assert torch.equal(first.test[0], other.test[0])
        assert torch.equal(first.test[1], other.test[1])
        assert not images(other) & tested


def test_the_test_set_has_a_fifth_of_every_class() -> None:
    _, labels = digits.load_digits()
    testing = digits.test_images(labels)
    for label in range(10):
        assert testing[labels == label].mean() == pytest.approx(0.2, abs=0.01)


def test_the_images_are_between_0_and_1() -> None:
    pixels, labels = digits.load_digits()
    assert pixels.shape == (1797, 8, 8)
    assert (pixels.dtype, labels.dtype) == (np.dtype(np.float32), np.dtype(np.int64))
    assert (pixels.min(), pixels.max()) == (0, 1)


def test_a_node_of_two_classes_sees_two_classes_and_the_swarm_all_ten() -> None:
    seen = [set(data_of(node).targets.tolist()) for node in swarm(split="shards")]
    assert [len(classes) for classes in seen] == [2] * SHARDS
    assert set.union(*seen) == set(range(10))


def test_the_same_seed_trains_to_the_same_bytes() -> None:
    one, other = digits.learner(1, SHARDS), digits.learner(1, SHARDS)
    trained(one, 5)
    trained(other, 5)
    assert torch.equal(one.parameters(), other.parameters())


def test_with_two_classes_of_ten_nobody_gets_far_alone() -> None:
    for node in swarm(split="shards"):
        assert trained(node, 100) <= 0.25


@pytest.mark.parametrize(("model", "rounds"), [("mlp", 150), ("cnn", 100)])
def test_with_all_data_both_models_learn_the_digits(
    model: Literal["mlp", "cnn"], rounds: int
) -> None:
    assert trained(digits.learner(model=model), rounds) >= 0.93


def test_nodes_that_average_learn_what_neither_sees_alone() -> None:
    nodes = swarm(split="shards")
    for _ in range(150):
        for node in nodes:
            node.train()
        mean = torch.stack([node.parameters() for node in nodes]).mean(dim=0)
        for node in nodes:
            node.load(mean)
    assert nodes[0].evaluate()["accuracy"] >= 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard": 5, "shards": 5}, "shard must be 0 to 4 of 5 shards, not 5"),
        ({"shard": -1}, "not -1"),
        ({"split": "random"}, "split must be .* not 'random'"),
        ({"model": "vit"}, "model must be 'mlp' or 'cnn', not 'vit'"),
        ({"split": "dirichlet", "alpha": 0.0}, "alpha must be a positive number, not 0.0"),
        ({"split": "shards", "shards": 2}, "2 shards of 2 classes .* 5 classes a shard"),
        ({"shards": 2000}, "2000 shards"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"steps": 0}, "steps must be at least 1, not 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused_with_their_value(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        digits.learner(**options)  # type: ignore[arg-type]


def test_the_command_line_reaches_every_option() -> None:
    options = {"split": "shards", "classes": "2", "model": "cnn", "lr": "0.01", "steps": "3"}
    options["drift_correction"] = "0"
    learner = build(load("models.digits:learner"), 1, SHARDS, 7, options)
    expected = digits.learner(
        1, SHARDS, seed=7, split="shards", classes=2, model="cnn", lr=0.01, steps=3
    )
    assert learner.train() == expected.train()
    assert torch.equal(learner.parameters(), expected.parameters())


def test_the_command_line_is_told_what_the_division_needs() -> None:
    with pytest.raises(TargetError, match=r"2 shards of 2 classes .*partition\.py:\d+"):
        build(load("models.digits:learner"), 0, 2, 0, {"split": "shards"})
    with pytest.raises(TargetError, match="split is one of iid, dirichlet, shards"):
        build(load("models.digits:learner"), 0, 2, 0, {"split": "shard"})
