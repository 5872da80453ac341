"""Metrics say what scikit-learn says, and what can be counted by hand."""

from __future__ import annotations

from math import isnan, log2

import pytest
import torch

from models import metrics

SCORES = torch.eye(3)[[0, 0, 1, 2, 2, 2]]  # predicts 0 0 1 2 2 2
TRUE = torch.tensor([0, 1, 1, 2, 2, 0])


def test_a_classifier_is_measured_over_its_classes() -> None:
    found = metrics.classification(SCORES, TRUE)
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["precision"] == pytest.approx((1 / 2 + 1 + 2 / 3) / 3)
    assert found["recall"] == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)
    assert found["f1"] == pytest.approx((1 / 2 + 2 / 3 + 4 / 5) / 3)


def test_a_report_says_it_for_each_class_and_what_is_taken_for_what() -> None:
    found = metrics.report(SCORES, TRUE, "abc")
    assert found.classes == ("a", "b", "c")
    assert found.recall == (0.5, 0.5, 1)
    assert found.confusion.tolist() == [[1, 0, 1], [1, 1, 0], [0, 0, 2]]


def test_a_class_that_is_never_predicted_counts_as_0_without_a_warning() -> None:
    assert metrics.classification(SCORES[:2], torch.tensor([1, 1]))["f1"] == 0


def test_a_regression_is_measured_against_the_mean() -> None:
    true = torch.tensor([[1.0], [2.0], [3.0]])
    assert metrics.regression(true, true) == {"rmse": 0, "mae": 0, "r2": 1}
    assert metrics.regression(torch.full((3, 1), 2.0), true)["r2"] == pytest.approx(0)
    assert metrics.regression(true + 0.5, true)["mae"] == pytest.approx(0.5)


def test_training_that_diverged_is_measured_as_nan() -> None:
    assert isnan(metrics.regression(torch.tensor([float("inf")]), torch.tensor([1.0]))["r2"])


def test_a_language_model_that_knows_nothing_is_as_perplexed_as_its_alphabet_is_large() -> None:
    found = metrics.language(torch.zeros(5, 32, 7), torch.randint(32, (5, 7)))
    assert found["perplexity"] == pytest.approx(32, rel=1e-4)
    assert found["bits"] == pytest.approx(5, rel=1e-4)


def test_a_ranking_is_measured_by_the_place_of_the_right_item() -> None:
    scores = -torch.arange(20.0).repeat(3, 1)
    scores[:, 15] = -torch.inf  # left out
    found = metrics.ranking(scores, torch.tensor([0, 4, 12]))
    assert found["hit@10"] == pytest.approx(2 / 3)
    assert found["ndcg@10"] == pytest.approx((1 + 1 / log2(6)) / 3)
