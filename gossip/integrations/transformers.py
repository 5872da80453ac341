"""Hugging Face: `Trainer(..., callbacks=[GossipCallback(["10.0.0.5:7946"])])`.

Extra `transformers`. One step of ours is one step of the optimizer. For adapters alone give
`share=["*lora_*"]`. Where the Trainer runs in several processes (DDP), they are one node: rank 0
gossips, the others follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer
from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

import gossip


class GossipCallback(TrainerCallback):
    """Joins when training begins, leaves when it ends. Takes what `gossip.join` takes.

    `peer` is the member meanwhile. The Trainer does not tell its callbacks of exceptions: call
    `close`, or let the process end, which ends the network too.
    """

    def __init__(self, peers: Sequence[str] = (), **settings: Any) -> None:
        self.peer: gossip.Member | None = None
        self._peers = peers
        self._settings = settings

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Join."""
        model: nn.Module = kwargs["model"]
        optimizer: Optimizer = kwargs["optimizer"]
        group = dist.group.WORLD if dist.is_initialized() and dist.get_world_size() > 1 else None
        peer = gossip.join(
            model,
            self._peers,
            optimizer=getattr(optimizer, "optimizer", optimizer),  # accelerate wraps it
            group=group,
            **self._settings,
        )
        self.peer = peer.__enter__()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Step. The samples are those of a full batch, on this process."""
        if self.peer is not None:
            self.peer.step(args.train_batch_size * args.gradient_accumulation_steps)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take in the last merges and leave."""
        peer, self.peer = self.peer, None
        if peer is not None:
            peer.__exit__(None, None, None)

    def close(self) -> None:
        """Leave in the middle: what has not been merged yet is not waited for."""
        peer, self.peer = self.peer, None
        if peer is not None:
            peer.__exit__(InterruptedError, None, None)
