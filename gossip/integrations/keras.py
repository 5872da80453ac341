"""Keras 3, whatever its backend: `model.fit(..., callbacks=[GossipCallback(["10.0.0.5:7946"])])`.

Extra `keras`. At each sync the weights go through numpy into a module of PyTorch, and back if
others have changed them. Their names on the network are their places in `model.weights` and what
Keras calls them (`0.kernel`), so a model on JAX learns with the same model on PyTorch. What is not
trainable (moving averages) is averaged as BatchNorm's statistics are; what is no floating number
(the state of a dropout's generator) stays here.

The optimizer belongs to Keras: no drift correction, and its state is not in our checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import torch
from torch import nn

import gossip


class GossipCallback(keras.callbacks.Callback):
    """Joins when training begins, leaves when it ends. Takes what `gossip.join` takes.

    Args:
        batch_size: samples in a batch, which Keras does not tell; only ratios to others matter.

    `peer` is the member meanwhile. Keras does not tell its callbacks of exceptions: call `close`,
    or let the process end, which ends the network too.
    """

    def __init__(
        self,
        peers: Sequence[str] = (),
        *,
        batch_size: int = 32,
        sync_every: int = 10,
        **settings: Any,
    ) -> None:
        super().__init__()
        self.peer: gossip.Member | None = None
        self._peers = peers
        self._batch_size = batch_size
        self._sync_every = sync_every
        self._settings = settings
        self._steps = 0

    def on_train_begin(self, logs: Any = None) -> None:
        """Join."""
        self._mirror = Mirror(self.model)
        peer = gossip.join(self._mirror, self._peers, sync_every=1, **self._settings)
        self.peer = peer.__enter__()
        self._mirror.write()  # it may have come from a checkpoint
        self._steps = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Step; one in `sync_every` of them reads the weights."""
        self._steps += 1
        if self.peer is None or self._steps < self._sync_every:
            return
        self._mirror.read()
        if self.peer.step(self._steps * self._batch_size):
            self._mirror.write()
        self._steps = 0

    def on_train_end(self, logs: Any = None) -> None:
        """Take in the last merges and leave."""
        peer, self.peer = self.peer, None
        if peer is not None:
            self._mirror.read()
            peer.__exit__(None, None, None)
            self._mirror.write()

    def close(self) -> None:
        """Leave in the middle: what has not been merged yet is not waited for."""
        peer, self.peer = self.peer, None
        if peer is not None:
            peer.__exit__(InterruptedError, None, None)


class Mirror(nn.Module):
    """The floating weights of a Keras model, as a module."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        # On JAX the weights of a running `fit` are elsewhere; after this they are in the model,
        # and are taken from it for the next batch.
        self._bring = getattr(model, "jax_state_sync", lambda: None)
        self._weights: list[tuple[Any, torch.Tensor]] = []
        for place, weight in enumerate(model.weights):
            values = _values(weight)
            if not values.is_floating_point():
                continue
            # As PyTorch calls it, so that a variance never falls below zero.
            name = weight.name.replace("moving_variance", "running_var")
            holder = nn.Module()
            if weight.trainable:
                holder.register_parameter(name, nn.Parameter(values))
            else:
                holder.register_buffer(name, values)
            self.add_module(str(place), holder)
            self._weights.append((weight, values))

    def read(self) -> None:
        """Take over the model's values."""
        self._bring()
        for weight, values in self._weights:
            values.copy_(_values(weight))

    def write(self) -> None:
        """Give the model ours."""
        for weight, values in self._weights:
            weight.assign(values.numpy().copy())


def _values(weight: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(keras.ops.convert_to_numpy(weight.value)))
