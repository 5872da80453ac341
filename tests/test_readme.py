"""What the README shows runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

from gossip.target import build, load

README = Path(__file__).parent.parent / "README.md"


def block(containing: str) -> str:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (found,) = [block for block in blocks if containing in block]
    return str(found)


def test_the_learner_trains(tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    file.write_text(block("def learner"))
    learner = build(load(f"{file}:learner"), 2, 5, 7, {"lr": "0.2"})
    before = learner.evaluate()["accuracy"]
    for _ in range(30):
        learner.train()
    assert learner.evaluate()["accuracy"] > before + 0.1


def test_the_embedding_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", block("gossip.join")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(README.parent)},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "others may join 127.0.0.1:" in done.stdout
