"""The network beside a training loop of your own.

with gossip.join(model, peers=["10.0.0.5:7946"], optimizer=optimizer) as peer:
    for inputs, targets in batches:
        ...                      # your loop, your optimizer
        peer.step(len(inputs))
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import nn
from torch.distributed import ProcessGroup
from torch.optim import Optimizer

from gossip.config import Config, check
from gossip.member import Member, Off, OnEvent
from gossip.training import Training
from gossip.vector import Selection

SWITCH = "GOSSIP_OFF"  # in the environment: anything but nothing and 0 turns all of it off


def join(
    model: nn.Module,
    peers: Sequence[str] = (),
    *,
    optimizer: Optimizer | None = None,
    sync_every: int = 10,
    share: Sequence[str] | None = None,
    keep: Sequence[str] = (),
    device: torch.device | str = "cpu",
    on_event: OnEvent | None = None,
    group: ProcessGroup | None = None,
    config: Config | None = None,
    **settings: Any,
) -> Member:
    """Let a model learn together with others; use the result in a `with` statement.

    With GOSSIP_OFF=1 in the environment it does nothing: no thread, no socket, no file.

    Args:
        model: yours; changed in place, in `step` and at the end only.
        peers: HOST:PORT of some to begin with; none: wait to be found.
        optimizer: yours; if it is SGD, its gradients are corrected for the difference between your
            data and everybody's (`gossip.drift`), from the second merge on. With a `state_dir`,
            its state is in the checkpoints.
        sync_every: steps between two syncs; what a merge may lag behind.
        share: patterns of the names of what is learned together (`["*lora_*"]`); None: everything.
        keep: patterns of what stays yours all the same (`["head.*"]`): never sent, never written.
        device: where the vectors live, one for each neighbour and three more.
        on_event: called with everything that happens (`SyncCompleted`, `PeerUp`, ...), in your
            thread, inside `step`; a loop that steps too seldom misses the oldest.
        group: of processes that train this model together by DDP (`torch.distributed.group.WORLD`):
            rank 0 gossips, the others follow. All call `step` alike; see `gossip.group`.
        config: of the node; `settings` (`listen`, `state_dir`, ...) replace its fields.

    Raises LayoutError if the model cannot be shared, ConfigError for settings that make no sense;
    entering raises what `Host` raises.
    """
    if os.environ.get(SWITCH, "") not in ("", "0"):
        return Off()
    if sync_every < 1:
        raise ValueError(f"sync_every is at least 1, not {sync_every}")
    if isinstance(peers, str):
        raise TypeError(f"peers is a list of HOST:PORT; write [{peers!r}]")
    if peers:
        settings["join"] = tuple(peers)
    base = config or Config()
    known = {entry.name: getattr(base, entry.name) for entry in fields(base)}
    settled = check(known | settings, "gossip.join")
    training = Training(model, optimizer, sync_every, Selection.of(share, keep))
    if group is None:
        return Member(training, sync_every, settled, device, on_event)
    from gossip.group import Follower, Leader

    if group.rank() > 0:
        return Follower(training, sync_every, device, group)
    return Leader(training, sync_every, settled, device, on_event, group)
