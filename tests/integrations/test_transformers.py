"""The callback for Hugging Face's Trainer, in a real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from tests.integrations.company import Enough, accuracy, clouds, companion, network

pytest.importorskip("transformers", reason="the extra `transformers` is not installed")
pytest.importorskip("accelerate", reason="the extra `transformers` is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs

from transformers import Trainer, TrainerCallback, TrainingArguments  # noqa: E402

from gossip.integrations.transformers import GossipCallback  # noqa: E402


class Module(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, points: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.net(points)
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class Plain(nn.Module):
    """The same model, for a loop that wants the logits alone."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, points: Tensor) -> Tensor:
        return self.net(points)  # type: ignore[no-any-return]


class Points(Dataset[dict[str, Tensor]]):
    def __init__(self) -> None:
        self._points, self._labels = clouds(0, 1)

    def __len__(self) -> int:
        return len(self._points)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"points": self._points[index], "labels": self._labels[index]}


def arguments(where: Path, **settings: Any) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(where),
        per_device_train_batch_size=64,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        **settings,
    )


def test_a_trainer_learns_what_only_others_have_seen(tmp_path: Path) -> None:
    module = Module()
    enough = Enough()

    class Stop(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = enough(callback.peer)

    with companion(Plain()) as address:
        callback = GossipCallback([address], sync_every=2)
        Trainer(
            model=module,
            args=arguments(tmp_path, num_train_epochs=10_000, learning_rate=3e-3),
            train_dataset=Points(),
            callbacks=[callback, Stop()],
        ).train()
    assert callback.peer is None
    plain = Plain()
    plain.load_state_dict(module.state_dict())
    assert accuracy(plain) > 0.9


def test_accumulated_gradients_are_one_step_and_close_ends_the_network(tmp_path: Path) -> None:
    callback = GossipCallback(sync_every=10**6)
    seen = []

    class Look(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            assert callback.peer is not None
            seen.append((callback.peer._steps, callback.peer._samples))
            if len(seen) == 2:
                raise ZeroDivisionError

    trainer = Trainer(
        model=Module(),
        args=arguments(tmp_path, gradient_accumulation_steps=4),
        train_dataset=Points(),
        callbacks=[callback, Look()],
    )
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    callback.close()
    assert callback.peer is None
    assert seen == [(1, 256), (2, 512)]
    assert torch.get_num_threads() == 1
