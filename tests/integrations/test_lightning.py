"""The callback for Lightning, in a real Trainer."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tests.integrations.company import Enough, accuracy, clouds, companion, network

pytest.importorskip("lightning", reason="the extra `lightning` is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs

from lightning.pytorch import Callback, LightningModule, Trainer  # noqa: E402

from gossip.integrations.lightning import GossipCallback, size  # noqa: E402


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, points: Tensor) -> Tensor:
        return self.net(points)  # type: ignore[no-any-return]

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)


def batches() -> Iterable[Any]:
    return DataLoader(TensorDataset(*clouds(0, 1)), batch_size=64, shuffle=True)


def trainer(*callbacks: Callback, **settings: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def test_a_trainer_learns_what_only_others_have_seen() -> None:
    module = Module()
    enough = Enough()

    class Stop(Callback):
        def on_train_batch_end(self, trainer: Trainer, *rest: Any) -> None:
            trainer.should_stop = enough(callback.peer)

    with companion(Module()) as address:
        callback = GossipCallback([address], sync_every=2)
        trainer(callback, Stop(), max_epochs=-1).fit(module, batches())
    assert callback.peer is None
    assert accuracy(module) > 0.9


def test_batches_that_accumulate_gradients_are_one_step() -> None:
    callback = GossipCallback(sync_every=10**6)
    seen = []

    class Look(Callback):
        def on_train_batch_end(self, *rest: Any) -> None:
            assert callback.peer is not None
            seen.append((callback.peer._steps, callback.peer._samples))

    trainer(callback, Look(), max_steps=2, accumulate_grad_batches=4).fit(Module(), batches())
    assert seen[3] == (1, 256)
    assert seen[6] == (1, 256)
    assert seen[7] == (2, 512)


def test_an_exception_in_training_ends_the_network() -> None:
    callback = GossipCallback()

    class Fail(Callback):
        def on_train_batch_end(self, *rest: Any) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        trainer(callback, Fail(), max_steps=2).fit(Module(), batches())
    assert callback.peer is None


def test_the_samples_of_a_batch_are_the_length_of_its_first_tensor() -> None:
    assert size(torch.zeros(5, 2)) == 5
    assert size({"a": [torch.zeros(4), torch.zeros(9)]}) == 4
    assert size((torch.tensor(1.0),)) == 1
    assert size([]) == 1
