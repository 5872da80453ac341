"""Loops as people write them learn together: mixed precision, accumulated gradients, compiled."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import gossip
from tests.integrations.company import Enough, accuracy, clouds, companion, network

Step = Callable[[nn.Module, torch.optim.Optimizer], int]


def mixed_precision(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    points, labels = clouds(0, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nn.functional.cross_entropy(model(points[:64]), labels[:64])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return 64


def scaled(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """With a scaler, as half precision needs it on an accelerator."""
    scaler = torch.amp.GradScaler("cpu")
    points, labels = clouds(0, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nn.functional.cross_entropy(model(points[:64]), labels[:64])
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    return 64


def accumulated(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    points, labels = clouds(0, 1)
    optimizer.zero_grad()
    for piece in range(4):
        part = slice(16 * piece, 16 * (piece + 1))
        loss = nn.functional.cross_entropy(model(points[part]), labels[part])
        (loss / 4).backward()
    optimizer.step()
    return 64


def compiled(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    points, labels = clouds(0, 1)
    loss = nn.functional.cross_entropy(model(points[:64]), labels[:64])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return 64


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # inside PyTorch
@pytest.mark.parametrize(
    ("step", "compiler"),
    [
        (mixed_precision, None),
        (scaled, None),
        (accumulated, None),
        (compiled, "eager"),
        pytest.param(compiled, "inductor", marks=pytest.mark.slow),
    ],
)
def test_it_learns_what_only_others_have_seen(step: Step, compiler: str | None) -> None:
    model: nn.Module = network()
    plain, enough = model, Enough()
    if compiler is not None:
        model = torch.compile(model, backend=compiler)  # type: ignore[assignment]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with (
        companion(network()) as address,
        gossip.join(model, [address], optimizer=optimizer, sync_every=2) as peer,
    ):
        while not enough(peer):
            peer.step(step(model, optimizer))
    assert accuracy(plain) > 0.9


def test_alone_each_of_them_is_bit_for_bit_what_it_is_without_us() -> None:
    for step in (mixed_precision, scaled, accumulated):
        ours, plain = network(), network()
        optimizer = torch.optim.SGD(plain.parameters(), lr=0.05)
        for _ in range(20):
            step(plain, optimizer)
        optimizer = torch.optim.SGD(ours.parameters(), lr=0.05)
        with gossip.join(ours, optimizer=optimizer, sync_every=2) as peer:
            for _ in range(20):
                peer.step(step(ours, optimizer))
        for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
            assert torch.equal(a, b)
