"""The drift correction learns what merges undo, and takes it out of the gradient."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from math import inf, nan

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD

from gossip.drift import LEAK, DriftCorrection


def parameter(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values))


def step(optimizer: SGD, *gradients: Sequence[float]) -> None:
    (group,) = optimizer.param_groups
    for target, gradient in zip(group["params"], gradients, strict=True):
        target.grad = torch.tensor(gradient)
    optimizer.step()


def merge(drift: DriftCorrection, target: nn.Parameter, *values: float) -> None:
    with drift.merging(), torch.no_grad():
        target.copy_(torch.tensor(values))


def test_until_the_second_merge_nothing_is_corrected() -> None:
    weights = parameter(0.0)
    optimizer = SGD([weights], lr=1.0)
    drift = DriftCorrection(optimizer, steps=1, strength=0.5)
    merge(drift, weights, 7.0)  # as from a checkpoint: before any step
    step(optimizer, [1.0])
    assert weights.item() == 6.0
    merge(drift, weights, 1000.0)  # as from a neighbour whose model is adopted
    step(optimizer, [1.0])
    assert weights.item() == 999.0


def test_what_a_merge_undoes_is_taken_out_of_the_gradient() -> None:
    weights = parameter(0.0)
    optimizer = SGD([weights], lr=0.1)
    drift = DriftCorrection(optimizer, steps=1, strength=0.5)
    for _ in range(2):
        step(optimizer, [1.0])
        assert weights.item() == pytest.approx(-0.1)
        merge(drift, weights, 0.0)
    step(optimizer, [1.0])  # of which one half, the strength, is known to be undone
    assert weights.item() == pytest.approx(-0.05)


@pytest.mark.parametrize(
    ("settings", "rate"),
    [
        ({"lr": 0.1}, 0.1),
        ({"lr": torch.tensor(0.1)}, 0.1),
        ({"lr": 0.1, "momentum": 0.9}, 1.0),
        ({"lr": 0.1, "momentum": 0.9, "dampening": 0.5}, 0.5),
        ({"lr": 0.1, "momentum": 0.9, "nesterov": True}, 1.0),
        ({"lr": 0.1, "maximize": True}, -0.1),
        ({"lr": 0.1, "dampening": 0.5}, 0.1),  # which counts for nothing without momentum
    ],
)
def test_the_scale_is_how_far_a_lasting_gradient_moves_the_model(
    settings: dict[str, float], rate: float
) -> None:
    weights = parameter(0.0)
    optimizer = SGD([weights], **settings)  # type: ignore[arg-type]
    for _ in range(200):
        step(optimizer, [1.0])
    before = weights.item()
    step(optimizer, [1.0])
    assert before - weights.item() == pytest.approx(rate, rel=1e-3)

    drift = DriftCorrection(optimizer, steps=10, strength=1.0)
    step(optimizer, [0.0])
    merge(drift, weights, 0.0)
    step(optimizer, [0.0])
    merge(drift, weights, weights.item() + 10 * rate)
    optimizer.param_groups[0]["lr"] = 0.0
    step(optimizer, [5.0])
    assert weights.grad is not None
    assert weights.grad.item() == pytest.approx(4.0)


def test_each_group_of_parameters_has_its_own_scale() -> None:
    slow, fast = parameter(0.0), parameter(0.0)
    optimizer = SGD([{"params": [slow], "lr": 0.1}, {"params": [fast], "lr": 1.0}])
    drift = DriftCorrection(optimizer, steps=1, strength=1.0)
    for _ in range(3):
        slow.grad, fast.grad = torch.ones(1), torch.ones(1)
        optimizer.step()
        with drift.merging(), torch.no_grad():
            slow.add_(0.1)
            fast.add_(1.0)
    assert slow.grad is not None
    assert fast.grad is not None
    assert slow.grad.item() == pytest.approx(0.0, abs=1e-6)
    assert fast.grad.item() == pytest.approx(0.0, abs=1e-6)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=20), st.lists(st.booleans(), min_size=20))
def test_the_corrections_of_two_nodes_always_cancel(
    gradients: list[float], rests: list[bool]
) -> None:
    """Whatever happens between two merges, also if one node trains twice as often."""
    nodes = [parameter(0.0), parameter(1.0)]
    optimizers = [SGD([node], lr=0.1) for node in nodes]
    drifts = [DriftCorrection(optimizer, steps=1) for optimizer in optimizers]
    for gradient, rest in zip(gradients, rests, strict=False):
        step(optimizers[0], [gradient])
        step(optimizers[1], [-2 * gradient])
        if rest:
            step(optimizers[1], [gradient])
        mean = (nodes[0].item() + nodes[1].item()) / 2
        for drift, node in zip(drifts, nodes, strict=True):
            merge(drift, node, mean)
    total = 0.0
    for optimizer, node in zip(optimizers, nodes, strict=True):
        step(optimizer, [0.0])
        assert node.grad is not None
        total += node.grad.item()
    assert total == pytest.approx(0.0, abs=1e-5)


def averaged(curves: Sequence[float], optima: Sequence[float], *, correct: bool) -> float:
    """Where two nodes end up that merge after every 20 steps on curve / 2 * (x - optimum) ** 2."""
    nodes = [parameter(0.0), parameter(0.0)]
    optimizers = [SGD([node], lr=0.05, momentum=0.5) for node in nodes]
    drifts = [DriftCorrection(optimizer, steps=20) for optimizer in optimizers] if correct else []
    mean = 0.0
    for _ in range(150):
        for node, optimizer, curve, optimum in zip(nodes, optimizers, curves, optima, strict=True):
            for _ in range(20):
                step(optimizer, [curve * (node.item() - optimum)])
        mean = (nodes[0].item() + nodes[1].item()) / 2
        for index, node in enumerate(nodes):
            with drifts[index].merging() if correct else nullcontext(), torch.no_grad():
                node.fill_(mean)
    return mean


@pytest.mark.parametrize("curves", [(1.0, 0.25), (0.5, 2.0)])
def test_it_brings_nodes_of_different_data_to_the_common_optimum(
    curves: tuple[float, float],
) -> None:
    optima = (-1.0, 3.0)
    common = sum(c * o for c, o in zip(curves, optima, strict=True)) / sum(curves)
    without = averaged(curves, optima, correct=False)
    corrected = averaged(curves, optima, correct=True)
    assert abs(without - common) > 0.3
    assert abs(corrected - common) < abs(without - common) / 4


def test_the_correction_leaks_away_where_merges_undo_nothing() -> None:
    weights = parameter(0.0)
    optimizer = SGD([weights], lr=1.0)
    drift = DriftCorrection(optimizer, steps=1, strength=1.0)
    for moved in (0.0, 1.0, 0.0, 0.0):
        step(optimizer, [0.0])
        merge(drift, weights, weights.item() + moved)
    optimizer.param_groups[0]["lr"] = 0.0
    step(optimizer, [0.0])
    assert weights.grad is not None
    assert weights.grad.item() == pytest.approx(-((1 - LEAK) ** 2), rel=1e-5)


@pytest.mark.parametrize("broken", [nan, inf])
def test_a_model_that_had_failed_leaves_no_trace(broken: float) -> None:
    weights = parameter(0.0, 0.0)
    optimizer = SGD([weights], lr=1.0)
    drift = DriftCorrection(optimizer, steps=1, strength=1.0)
    for gradient in (0.0, 1.0, broken):
        step(optimizer, [gradient, 1.0])
        merge(drift, weights, 0.0, 0.0)
    step(optimizer, [1.0, 1.0])
    assert weights.tolist() == [-1.0, -1.0]


def test_frozen_unused_and_sparse_parameters_are_left_alone() -> None:
    frozen = nn.Parameter(torch.zeros(1), requires_grad=False)
    unused = parameter(0.0)
    rows = nn.Embedding(3, 1, sparse=True)
    optimizer = SGD([frozen, unused, rows.weight], lr=1.0)
    drift = DriftCorrection(optimizer, steps=1, strength=1.0)
    for _ in range(3):
        optimizer.zero_grad()
        rows(torch.tensor([1])).sum().backward()
        optimizer.step()
        with drift.merging(), torch.no_grad():
            for target in (frozen, unused, rows.weight):
                target.add_(1.0)
    assert unused.grad is None
    assert frozen.grad is None
    assert rows.weight.grad is not None
    assert rows.weight.grad.is_sparse


@pytest.mark.parametrize("settings", [{"lr": 0.0}, {"lr": 0.1, "momentum": 1.0}])
def test_where_there_is_no_scale_there_is_no_correction(settings: dict[str, float]) -> None:
    weights = parameter(0.0)
    optimizer = SGD([weights], **settings)  # type: ignore[arg-type]
    drift = DriftCorrection(optimizer, steps=1)
    for _ in range(3):
        step(optimizer, [1.0])
        merge(drift, weights, 5.0)
    assert weights.grad is not None
    assert weights.grad.item() == 1.0


@pytest.mark.parametrize("strength", [0.0, -0.1, 1.5, nan])
def test_a_strength_that_makes_no_sense_is_refused(strength: float) -> None:
    with pytest.raises(ValueError, match=str(strength)):
        DriftCorrection(SGD([parameter(0.0)], lr=0.1), 1, strength)


@pytest.mark.parametrize("fused", [False, True])
def test_under_a_scaler_the_correction_has_the_scale_of_the_gradients(fused: bool) -> None:
    moved = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=1024.0)):
        weights = parameter(0.0)
        optimizer = SGD([weights], lr=0.1, fused=fused)
        drift = DriftCorrection(optimizer, steps=1, strength=0.5)
        for _ in range(2):
            step(optimizer, [1.0])
            merge(drift, weights, 0.0)
        optimizer.zero_grad()
        if scaler is None:
            weights.sum().backward()
            optimizer.step()
        else:
            scaler.scale(weights.sum()).backward()
            scaler.step(optimizer)
        moved.append(weights.item())
    assert moved[0] == pytest.approx(-0.05)
    assert moved[1] == pytest.approx(moved[0])
