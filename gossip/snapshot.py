"""What of an agent is saved: the model, and a receipt of the last exchange with each neighbour."""

from __future__ import annotations

import torch
from torch import Tensor

from gossip.agent import Agent
from gossip.checkpoint import Checkpoint
from gossip.errors import CheckpointError
from gossip.exchange import Receipt
from gossip.vector import Layout
from p2p import PeerId


def snapshot(agent: Agent) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Everything that an agent needs to continue, copied: training goes on while it is written."""
    tensors = {"x": agent.x.clone()}
    receipts = {}
    for peer, receipt in agent.receipts().items():
        receipts[str(peer)] = [*receipt.epoch, receipt.n, receipt.scale]
        for name, half in (("mine", receipt.mine), ("theirs", receipt.theirs)):
            if half:
                tensors[f"{name}.{peer}"] = torch.frombuffer(bytearray(half), dtype=torch.uint8)
    return tensors, {
        "id": str(agent.me.id),
        "samples": agent.samples,
        "layout": agent.layout.hash.hex(),
        "tensors": agent.layout.encode().decode(),
        "receipts": receipts,
    }


def restore(saved: Checkpoint, layout: Layout) -> tuple[Tensor, int, dict[PeerId, Receipt]]:
    """The model, the samples it has seen and the receipts. Raises CheckpointError: it is of another
    layout."""
    if saved.metadata["layout"] != layout.hash.hex():
        raise CheckpointError(
            f"{saved.path} holds a model of another layout; move it away to start afresh, or give "
            "another --state-dir"
        )

    def half(name: str, peer: str) -> bytes:
        tensor = saved.tensors.get(f"{name}.{peer}")
        return b"" if tensor is None else tensor.numpy().tobytes()

    receipts = {
        PeerId.parse(peer): Receipt(
            (low, high), n, half("mine", peer), half("theirs", peer), *scale
        )
        for peer, (low, high, n, *scale) in saved.metadata["receipts"].items()
    }
    return saved.tensors["x"], int(saved.metadata["samples"]), receipts
