"""What the models of a classification know, class by class, and what data they learned from.

Only of learners that show it: a `TorchLearner` with a test set of classes; its training data only
if they are `Batches`. Of others there is nothing to say.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gossip.learner import EVALUATION_BATCH, Batches, Learner, TorchLearner
from sims.attacks import Liar
from sims.simulation import Simulation

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Over the honest nodes that are up."""

    confusion: Counts  # (classes, classes): how often a class (row) was taken for another
    scores: NDArray[np.float64]  # (nodes, 3, classes): precision, recall, F1


def diagnose(simulation: Simulation) -> Diagnosis | None:
    """Have all models say what the test samples are; None if they are not classes."""
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    scores: list[NDArray[np.float64]] = []
    confusion: Counts | None = None
    for node in simulation.live:
        found = None if node.hostile else _answers(node.learner)
        if found is None:
            continue
        targets, answers, classes = found
        labels = range(classes)
        mine = confusion_matrix(targets, answers, labels=labels)
        confusion = mine if confusion is None else confusion + mine
        each = precision_recall_fscore_support(targets, answers, labels=labels, zero_division=0.0)
        scores.append(np.stack(each[:3]))
    return None if confusion is None else Diagnosis(confusion, np.stack(scores))


def class_counts(simulation: Simulation) -> Counts | None:
    """(nodes, classes) how many samples of each class every node trains on; None if unknown."""
    found = [_classes(node.learner) for node in simulation.nodes]
    if any(labels is None for labels in found):
        return None
    known = [labels.numpy() for labels in found if labels is not None]
    classes = 1 + max(int(labels.max()) for labels in known)
    return np.stack([np.bincount(labels, minlength=classes) for labels in known])


def _answers(learner: Learner) -> tuple[Counts, Counts, int] | None:
    if not isinstance(learner, TorchLearner) or learner.test is None:
        return None
    inputs, targets = learner.test
    if targets.is_floating_point() or targets.dim() != 1:
        return None
    training = learner.model.training
    learner.model.eval()
    with torch.no_grad():
        pieces = [learner.model(piece) for piece in torch.split(inputs, EVALUATION_BATCH)]
    learner.model.train(training)
    outputs = torch.cat(pieces)
    if outputs.dim() != 2:
        return None
    return targets.numpy(), outputs.argmax(dim=1).numpy(), outputs.shape[1]


def _classes(learner: Learner) -> Tensor | None:
    if isinstance(learner, Liar):
        learner = learner.honest
    batches = learner.batches if isinstance(learner, TorchLearner) else None
    if not isinstance(batches, Batches):
        return None
    targets = batches.targets
    return None if targets.is_floating_point() or targets.dim() != 1 else targets
