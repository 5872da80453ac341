"""Two processes that train by DDP are one node."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import nn

import gossip

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow  # three processes import PyTorch
def test_rank_0_gossips_and_the_others_follow_to_the_last_bit(tmp_path: Path) -> None:
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with gossip.join(model, sync_every=1) as peer:
        command = [sys.executable, str(Path(__file__).with_name("ddp.py"))]
        ranks = [
            subprocess.Popen(
                [*command, str(rank), str(tmp_path / "store"), peer.address],
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        try:
            while any(rank.poll() is None for rank in ranks):
                peer.step(1)
                with suppress(subprocess.TimeoutExpired):
                    ranks[0].wait(0.01)
            said = [rank.communicate()[0].split() for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert said[0] == said[1]
    assert said[0][1:] == ["True", "True"]  # others have changed the model, and h is there
