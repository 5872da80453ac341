"""Lightning: `Trainer(callbacks=[GossipCallback(["10.0.0.5:7946"])])`. Extra `lightning`.

One step of ours is one step of the optimizer, so batches that accumulate gradients count together.
Where Lightning trains in several processes (DDP), they are one node: rank 0 gossips, the others
follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

import gossip


class GossipCallback(Callback):
    """Joins when training starts, leaves when it ends. Takes what `gossip.join` takes.

    `peer` is the member meanwhile. The drift correction and the optimizer's state in the
    checkpoints are for modules with one optimizer.
    """

    def __init__(self, peers: Sequence[str] = (), **settings: Any) -> None:
        self.peer: gossip.Member | None = None
        self._peers = peers
        self._settings = settings
        self._step = 0
        self._samples = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Join."""
        group = dist.group.WORLD if trainer.world_size > 1 and dist.is_initialized() else None
        optimizers = trainer.optimizers
        peer = gossip.join(
            pl_module,
            self._peers,
            optimizer=optimizers[0] if len(optimizers) == 1 else None,
            group=group,
            **self._settings,
        )
        self.peer = peer.__enter__()
        self._step, self._samples = trainer.global_step, 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Step, if the optimizer did."""
        self._samples += size(batch)
        if self.peer is not None and trainer.global_step > self._step:
            self.peer.step(self._samples)
            self._step, self._samples = trainer.global_step, 0

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take in the last merges and leave."""
        self._leave(None)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave."""
        self._leave(exception)

    def _leave(self, exception: BaseException | None) -> None:
        peer, self.peer = self.peer, None
        if peer is not None:
            peer.__exit__(exception and type(exception), exception, None)


def size(batch: Any) -> int:
    """How many samples a batch has: the length of the first tensor in it, however deep; else 1."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.dim() else 1
    if isinstance(batch, dict):
        batch = list(batch.values())
    if isinstance(batch, list | tuple) and batch:
        return size(batch[0])
    return 1
