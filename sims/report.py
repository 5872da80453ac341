"""What a simulation comes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The figures of a run; those of models are over the nodes that are up."""

    nodes: int
    seed: int
    virtual_seconds: float
    accuracy_min: float
    accuracy_mean: float
    consensus_distance: float
    bytes_per_node: float
    exchanges: int
    trace: str

    @classmethod
    def of(
        cls,
        *,
        nodes: int,
        seed: int,
        virtual_seconds: float,
        accuracies: Sequence[float],
        models: Sequence[Tensor],
        bytes_sent: int,
        exchanges: int,
        trace: str,
    ) -> Report:
        """Sum up a run. Raises ValueError when no node is up."""
        if not accuracies:
            raise ValueError("no node is up, so there is nothing to report")
        return cls(
            nodes=nodes,
            seed=seed,
            virtual_seconds=virtual_seconds,
            accuracy_min=min(accuracies),
            accuracy_mean=sum(accuracies) / len(accuracies),
            consensus_distance=consensus_distance(models),
            bytes_per_node=bytes_sent / nodes,
            exchanges=exchanges,
            trace=trace,
        )


def consensus_distance(models: Sequence[Tensor]) -> float:
    """How far models (n,) are apart: the root of their mean squared distance to their mean,
    relative to the length of that mean."""
    stacked = torch.stack(list(models)).double()
    mean = stacked.mean(dim=0)
    return float((stacked - mean).square().sum(dim=1).mean().sqrt() / mean.norm().clamp_min(1e-30))


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"
