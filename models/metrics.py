"""How good outputs are, by scikit-learn's metrics where it has them.

Each function takes outputs and targets and returns numbers by name: what `TorchLearner` wants as
`metrics`. What travels in a node's record is bounded, so these return few; `report` tells all about
a classifier, for people.

    classification    accuracy, precision, recall, f1: means over the classes that occur
    regression        rmse, mae, r2
    language          accuracy, perplexity, bits per character
    ranking           hit@10, ndcg@10: is the one right item among the ten highest, and how high
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log, nan
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

TOP = 10  # of a ranking


@dataclass(frozen=True, slots=True)
class Report:
    """A classifier on a test set, class by class."""

    classes: tuple[str, ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    f1: tuple[float, ...]
    confusion: NDArray[np.int64]  # (true, predicted)


def classification(outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Of scores (N, C) against classes (N,); macro averages."""
    predicted = outputs.argmax(dim=1)
    scores = _sklearn().precision_recall_fscore_support(
        targets.cpu(), predicted.cpu(), average="macro", zero_division=0.0
    )
    accuracy = float((predicted == targets).float().mean())
    named = zip(("precision", "recall", "f1"), map(float, scores[:3]), strict=True)
    return {"accuracy": accuracy, **dict(named)}


def report(outputs: Tensor, targets: Tensor, classes: Sequence[str]) -> Report:
    """The same, for each class, and what is taken for what."""
    labels = list(range(len(classes)))
    true, predicted = targets.cpu(), outputs.argmax(dim=1).cpu()
    metrics = _sklearn()
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        true, predicted, labels=labels, zero_division=0.0
    )
    confusion = metrics.confusion_matrix(true, predicted, labels=labels)
    return Report(
        tuple(classes),
        tuple(map(float, precision)),
        tuple(map(float, recall)),
        tuple(map(float, f1)),
        confusion.astype(np.int64),
    )


def regression(outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Of numbers against numbers of one shape; r2 is 1 for perfect and 0 for the mean."""
    metrics = _sklearn()
    got, true = (part.flatten().cpu().double().numpy() for part in (outputs, targets))
    if not np.isfinite(got).all():  # training has diverged
        return {"rmse": nan, "mae": nan, "r2": nan}
    return {
        "rmse": float(metrics.root_mean_squared_error(true, got)),
        "mae": float(metrics.mean_absolute_error(true, got)),
        "r2": float(metrics.r2_score(true, got)),
    }


def language(outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Of scores (N, symbols, ...) for the next symbol against what it was, (N, ...)."""
    loss = float(nn.functional.cross_entropy(outputs, targets))
    right = (outputs.argmax(dim=1) == targets).float().mean()
    return {"accuracy": float(right), "perplexity": exp(min(loss, 700.0)), "bits": loss / log(2)}


def ranking(outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Of scores (N, items) against the one right item of each, (N,)."""
    metrics = _sklearn()
    finite = torch.nan_to_num(outputs.cpu(), neginf=-1e30).numpy()
    relevant = nn.functional.one_hot(targets.cpu(), outputs.shape[1]).numpy()
    hits = metrics.top_k_accuracy_score(
        targets.cpu(), finite, k=TOP, labels=np.arange(outputs.shape[1])
    )
    ndcg = metrics.ndcg_score(relevant, finite, k=TOP)
    return {f"hit@{TOP}": float(hits), f"ndcg@{TOP}": float(ndcg)}


def _sklearn() -> Any:
    try:
        from sklearn import metrics  # here, not above: it takes a second that others need not wait
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"models.metrics needs scikit-learn ({error}): pip install 'gossip-learning[models]'",
            name=error.name,
        ) from error
    return metrics
