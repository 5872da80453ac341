"""A task that nobody learns alone: three clouds of points, of which each side sees two."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

import gossip

PATIENCE = 60.0  # seconds; only a test that fails waits so long
EXCHANGES = 100
STEPS = 200


def clouds(*classes: int) -> tuple[Tensor, Tensor]:
    """(600, 8) points, and the cloud that each is of."""
    generator = torch.Generator().manual_seed(5)
    centres = 3 * torch.randn(3, 8, generator=generator)
    labels = torch.tensor(classes).repeat(600 // len(classes))
    return centres[labels] + torch.randn(len(labels), 8, generator=generator), labels


def network() -> nn.Sequential:
    """The same weights each time."""
    torch.manual_seed(11)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    """On all three."""
    points, labels = clouds(0, 1, 2)
    return float((model(points).argmax(dim=1) == labels).float().mean())


class Enough:
    """Says when to stop: after so many exchanges, and steps that it was asked after."""

    def __init__(self) -> None:
        self._steps = 0
        self._deadline = time.monotonic() + PATIENCE

    def __call__(self, peer: gossip.Member | None) -> bool:
        assert peer is not None
        assert time.monotonic() < self._deadline, "too few exchanges"
        self._steps += 1  # while a step is compiled, the others exchange without us
        return self._steps >= STEPS and int(str(peer.status()["exchanges"])) >= EXCHANGES


@contextmanager
def companion(model: nn.Module) -> Iterator[str]:
    """A loop in a thread that trains `model` on clouds 1 and 2; its address."""
    points, labels = clouds(1, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    over = threading.Event()
    with gossip.join(model, optimizer=optimizer, sync_every=2) as peer:

        def loop() -> None:
            while not over.wait(0.001):
                loss = nn.functional.cross_entropy(model(points[:64]), labels[:64])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                peer.step(64)

        thread = threading.Thread(target=loop)
        thread.start()
        try:
            yield peer.address
        finally:
            over.set()
            thread.join()
