"""What training keeps on a node survives a restart, and is refused where it does not belong."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from gossip.learner import Resumable, TorchLearner

Make = Callable[[Iterable[nn.Parameter]], Optimizer]


USUAL = partial(SGD, lr=0.05, momentum=0.9)


def learner(optimizer: Make = USUAL, width: int = 6, **settings: Any) -> TorchLearner:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 2))
    inputs = torch.randn(32, 4)
    batch = inputs, (inputs[:, 0] > 0).long()
    return TorchLearner(model, [batch], nn.functional.cross_entropy, optimizer, steps=2, **settings)


def live(one: TorchLearner, rounds: int) -> None:
    """Train, and merge with somebody who is always a little further."""
    for _ in range(rounds):
        one.train()
        one.load(one.parameters() * 1.01)


@pytest.mark.parametrize(
    "optimizer",
    [
        partial(SGD, lr=0.05),
        partial(SGD, lr=0.05, momentum=0.9),
        partial(Adam, lr=0.01),
        partial(AdamW, lr=0.01, amsgrad=True),
        partial(RMSprop, lr=0.01, momentum=0.5),
    ],
)
@pytest.mark.parametrize("keep", [[], ["2.*"]])
def test_training_goes_on_as_if_nothing_had_happened(optimizer: Make, keep: list[str]) -> None:
    whole, again = (learner(optimizer, keep=keep) for _ in range(2))
    live(whole, 4)
    model, kept = whole.parameters(), whole.state()
    again.load(model)
    again.restore(kept)
    for one in (whole, again):
        one.train()
        one.train()
    assert torch.equal(again.parameters(), whole.parameters())
    for mine, theirs in zip(
        again.model.state_dict().values(), whole.model.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_it_is_a_copy_both_ways() -> None:
    one, other = learner(), learner()
    live(one, 3)
    kept = one.state()
    before = {name: tensor.clone() for name, tensor in kept.items()}
    other.restore(kept)
    live(one, 1)
    live(other, 1)
    assert any(name.startswith("h.") for name in kept)
    assert any(name.startswith("SGD.") for name in kept)
    assert "model.1.num_batches_tracked" in kept
    assert all(torch.equal(kept[name], tensor) for name, tensor in before.items())


def test_what_is_shared_is_not_kept_twice() -> None:
    one = learner(partial(SGD, lr=0.1))
    assert set(one.state()) == {"model.1.num_batches_tracked"}


@pytest.mark.parametrize(
    ("other", "part"),
    [
        (partial(learner, partial(Adam, lr=0.01)), "is not of Adam"),
        (partial(learner, width=7), r"is of shape \[6, 4\], not \[7, 4\]"),
        (
            lambda: TorchLearner(nn.Linear(4, 2), [], nn.functional.cross_entropy),
            "the model has no local",
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(
    other: Callable[[], TorchLearner], part: str
) -> None:
    one, stranger = learner(), other()
    live(one, 3)
    before = stranger.state()
    with pytest.raises(ValueError, match=part):
        stranger.restore(one.state())
    after = stranger.state()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_optimizer_whose_state_is_more_than_tensors_begins_anew() -> None:
    class Rememberer(SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            super().step(closure)
            for group in self.param_groups:
                for parameter in group["params"]:
                    self.state[parameter]["path"] = ["left", "right"]

    one = learner(partial(Rememberer, lr=0.1, momentum=0.9))
    live(one, 1)
    assert not any(name.startswith("Rememberer") for name in one.state())


def test_a_correction_that_is_off_leaves_its_part_aside() -> None:
    one, other = learner(), learner(drift_correction=0)
    live(one, 3)
    other.restore(one.state())
    assert not any(name.startswith("h.") for name in other.state())


def test_a_learner_says_by_its_verbs_that_it_can_do_this() -> None:
    assert isinstance(learner(), Resumable)
