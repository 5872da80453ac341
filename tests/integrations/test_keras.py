"""The callback for Keras, in a real `fit`; KERAS_BACKEND=jax tries it on JAX."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

from tests.integrations.company import Enough, clouds

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras", reason="the extra `keras` is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs

from gossip.integrations.keras import GossipCallback, Mirror  # noqa: E402
from tests.integrations.company import companion  # noqa: E402


def network() -> Any:
    """The same weights each time; a dropout has a state that is no floating number."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(3),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05), loss=loss, metrics=["accuracy"])
    return model


class Functional(Mirror):
    """What the mirror of `network` computes, in PyTorch: so both sides are of one layout."""

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        first, norm, last = (self._of(*names) for names in PLACES)
        hidden = torch.relu(points @ first[0] + first[1])
        hidden = torch.nn.functional.batch_norm(
            hidden, norm[2], norm[3], norm[0], norm[1], training=self.training, eps=1e-3
        )
        return hidden @ last[0] + last[1]

    def _of(self, *names: str) -> list[torch.Tensor]:
        state = dict(self.named_parameters()) | dict(self.named_buffers())
        return [state[name] for name in names]


PLACES = (
    ("0.kernel", "1.bias"),
    ("2.gamma", "3.beta", "4.moving_mean", "5.running_var"),
    ("6.kernel", "7.bias"),
)


def test_a_fit_learns_what_only_others_have_seen() -> None:
    model, other = network(), Functional(network())
    enough = Enough()

    class Stop(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.model.stop_training = enough(callback.peer)

    points, labels = clouds(0, 1)
    with companion(other) as address:
        callback = GossipCallback([address], sync_every=2, batch_size=64)
        model.fit(
            points.numpy(),
            labels.numpy(),
            batch_size=64,
            epochs=10_000,
            verbose=0,
            callbacks=[callback, Stop()],
        )
    assert callback.peer is None
    everything, truth = clouds(0, 1, 2)
    _, accuracy = model.evaluate(everything.numpy(), truth.numpy(), verbose=0)
    assert accuracy > 0.9


def test_names_do_not_depend_on_what_else_was_built() -> None:
    first, second = Mirror(network()), Mirror(network())
    assert list(first.state_dict()) == list(second.state_dict())
    assert list(first.state_dict()) == [name for names in PLACES for name in names]


def test_a_mirror_reads_and_writes() -> None:
    model = network()
    mirror = Mirror(model)
    with torch.no_grad():
        for parameter in mirror.parameters():
            parameter.fill_(0.5)
    mirror.write()
    assert all(bool((weight == 0.5).all()) for weight in model.trainable_weights[0:1])
    model.trainable_weights[0].assign(model.trainable_weights[0] * 0 + 0.25)
    mirror.read()
    first = next(iter(mirror.parameters()))
    assert torch.equal(first, torch.full_like(first, 0.25))
