import numpy as np
import pytest
import torch

from models import logistic


def test_nowhere_is_the_objective_lower_than_at_the_best() -> None:
    best = logistic.best()
    rng = np.random.default_rng(0)
    least = logistic.objective(best)
    for _ in range(10):
        assert logistic.objective(best + 0.01 * rng.standard_normal(logistic.SIZE)) > least


def test_sorted_shards_see_one_label_or_few_of_the_other() -> None:
    signs = [logistic.learner(shard, 9)._signs for shard in range(9)]
    assert sum(len(part) for part in signs) == logistic.SAMPLES
    assert sum(abs(part.mean()) == 1 for part in signs) >= 8


def test_training_comes_nearer_to_the_best() -> None:
    learner = logistic.learner(0, 1, split="iid", steps=2000)
    before = learner.evaluate()["suboptimality"]
    learner.train()
    assert 0 < learner.evaluate()["suboptimality"] < 0.9 * before


def test_what_is_loaded_is_handed_out() -> None:
    learner = logistic.learner()
    model = torch.randn(logistic.SIZE)
    learner.load(model)
    assert torch.equal(learner.parameters(), model)


def test_a_shard_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="shard must be 0 to 8 of 9 shards, not 9"):
        logistic.learner(9, 9)
