"""What docs/embedding.md shows runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "embedding.md").read_text(), re.DOTALL)
LIBRARIES = ("lightning", "transformers", "keras", "tensorboard")


def needs(block: str) -> list[str]:
    return [name for name in LIBRARIES if re.search(rf"^(from|import) .*\b{name}\b", block, re.M)]


def run(program: str, where: Path) -> None:
    alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=where,
        env=os.environ | alone | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_all_that_needs_no_other_library_runs(tmp_path: Path) -> None:
    """One after another in one process: PyTorch is imported once."""
    plain = [block for block in BLOCKS if not needs(block)]
    assert len(plain) >= 6
    run("".join(plain), tmp_path)


@pytest.mark.slow  # a process for each
@pytest.mark.parametrize("block", [block for block in BLOCKS if needs(block)])
def test_what_needs_another_library_runs(block: str, tmp_path: Path) -> None:
    for name in needs(block):
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    run(block, tmp_path)
    if "SummaryWriter" in block:
        assert list(tmp_path.glob("runs/me/events*"))
