"""Several processes that train one model by DDP are one node: rank 0 gossips, the others follow.

All ranks hold the same model and call `step` alike. Every `sync_every` steps rank 0 says whether
others have changed the model, and if so hands the change to all ranks, which add it in the same
way. So the models stay equal to the last bit, and so do the drift corrections, which each rank
learns from the same change.

    broadcast  an int64: ALIKE, or CHANGED, or NOT_FINITE     at each sync
    broadcast  (n,) float32, the change                       after CHANGED
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gossip.config import Config
from gossip.errors import NotFinite
from gossip.member import Member, Off, OnEvent
from gossip.training import Training

ALIKE, CHANGED, NOT_FINITE = range(3)


class Leader(Member):
    """Rank 0. Its vectors are on a device that the group can broadcast from."""

    def __init__(
        self,
        training: Training,
        sync_every: int,
        config: Config,
        device: torch.device | str,
        on_event: OnEvent | None,
        group: dist.ProcessGroup,
    ) -> None:
        super().__init__(training, sync_every, config, device, on_event)
        self._group = group
        self._ranks = dist.get_world_size(group)

    def step(self, samples: int = 1) -> bool:
        """As every rank: so many samples of its own; the node has seen them `ranks` times."""
        return super().step(samples * self._ranks)

    def __enter__(self) -> Member:
        try:
            super().__enter__()
        except BaseException as error:
            _tell(self._group, repr(error))
            raise
        try:
            _tell(self._group, None)
            _broadcast(self._training.flatten(self._buffer), self._group)
            _broadcast_object(self._training.state(), self._group)
        except BaseException:
            self._network.stop()
            raise
        return self

    def _due(self) -> bool:
        return True  # whether others have merged or not: it must be the same step on every rank

    def _brought(self) -> bool:
        said = ALIKE
        try:
            changed = super()._brought()
            said = CHANGED if changed else ALIKE
        except NotFinite:
            said = NOT_FINITE
            raise
        finally:
            _broadcast(torch.tensor([said], device=self._buffer.device), self._group)
        if changed:
            _broadcast(self._buffer, self._group)
        return changed


class Follower(Off):
    """Any other rank."""

    def __init__(
        self,
        training: Training,
        sync_every: int,
        device: torch.device | str,
        group: dist.ProcessGroup,
    ) -> None:
        super().__init__()
        self._training = training
        self._sync_every = sync_every
        self._buffer = torch.empty(training.layout.size, device=device)
        self._group = group
        self._steps = 0

    def step(self, samples: int = 1) -> bool:
        """As rank 0."""
        super().step(samples)
        self._steps += 1
        return self._steps >= self._sync_every and self._follow()

    def __enter__(self) -> Member:
        failure = _broadcast_object(None, self._group)
        if failure is not None:
            raise RuntimeError(f"rank 0 could not join: {failure}")
        _broadcast(self._buffer, self._group)
        self._training.load(self._buffer)
        self._training.restore(_broadcast_object(None, self._group))
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[0] is None:
            self._follow()
            self._follow()

    def _follow(self) -> bool:
        self._steps = 0
        said = torch.zeros(1, dtype=torch.int64, device=self._buffer.device)
        _broadcast(said, self._group)
        if int(said) == NOT_FINITE:
            raise NotFinite("rank 0 found NaN or infinity in the model, see there")
        if int(said) == ALIKE:
            return False
        _broadcast(self._buffer, self._group)
        self._training.add(self._buffer)
        return True


def _tell(group: dist.ProcessGroup, failure: str | None) -> None:
    _broadcast_object(failure, group)


def _broadcast(tensor: Tensor, group: dist.ProcessGroup) -> None:
    dist.broadcast(tensor, group=group, group_src=0)


def _broadcast_object(value: Any, group: dist.ProcessGroup) -> Any:
    """What rank 0 gives; pickled, but these are processes of one training."""
    held = [value]
    dist.broadcast_object_list(held, group=group, group_src=0)
    return held[0]
