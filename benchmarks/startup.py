"""How long a node takes from its start to its first exchange.

    python benchmarks/startup.py [--check] [--runs N]

One node runs on loopback with a network key; others join it, one after the other, each a process of
its own that imports PyTorch first. The clock starts when that is done, since the seconds it takes
are PyTorch's, and stops with the first exchange that the newcomer completes. Told apart: until the
node is up (imports, keys, sockets), until it has its first link, until its first exchange.

Nearly all of it is processor time that imports take, so others that are busy on the same machine
make it longer. The first node leaves compiled sources behind for the others, as an installation
does; without them each would compile ours anew, which is a sixth of it.

Gate: the median is below a second.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

sys.path.insert(0, str(Path(__file__).parents[1]))

from p2p import network_key

ROOT = Path(__file__).parents[1]

GATE = 1.0  # seconds
TORCH = "torch is imported"
STAGES = ("local API at", "PeerUp", "ExchangeCompleted")
MAIN = f"""
import sys, torch
torch.optim.SGD([torch.zeros(1)], lr=1)  # the first optimizer imports the rest of PyTorch
print({TORCH!r}, file=sys.stderr, flush=True)
from gossip.cli import main
main()
"""
LEARNER = """
import time
import gossip
import torch

def learner(shard: int, seed: int, pause: float = 0.0):
    torch.manual_seed(seed)
    inputs = torch.randn(64, 64)
    batches = [(inputs, (inputs[:, shard] > 0).long())]
    made = gossip.TorchLearner(torch.nn.Linear(64, 2), batches, torch.nn.functional.cross_entropy)
    train = made.train
    made.train = lambda: time.sleep(pause) or train()
    return made
"""


def start(home: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    node = ["run", str(home / "train.py") + ":learner", "--listen", "127.0.0.1:0"]
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, *node, "--network-key", str(home / "net.key"), *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def until(process: subprocess.Popen[str], text: str) -> str:
    """The first line that contains it."""
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return line
    raise SystemExit(f"a node ended before it said {text!r}")


def newcomer(home: Path, address: str) -> list[float]:
    """Seconds from PyTorch's import to each stage."""
    process = start(home, "--join", address, "--shard", "1/2", "--verbose")
    try:
        until(process, TORCH)
        began = perf_counter()
        times = []
        for stage in STAGES:
            until(process, stage)
            times.append(perf_counter() - began)
        return times
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Print a line for each newcomer, and the median."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail above the gate")
    parser.add_argument("--runs", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        (home / "train.py").write_text(LEARNER)
        network_key.create(home / "net.key")
        first = start(home, "--shard", "0/2", "--option", "pause=0.1")
        try:
            address = until(first, STAGES[0]).split(" is up")[0].split(" at ")[-1]
            print(f"{'seconds from import torch until':34}{'up':>8}{'linked':>8}{'exchanged':>11}")
            runs = [newcomer(home, address) for _ in range(arguments.runs)]
        finally:
            first.kill()
            first.wait()
    for times in [*runs, [median(stage) for stage in zip(*runs, strict=True)]]:
        print(f"{'':34}{times[0]:8.2f}{times[1]:8.2f}{times[2]:11.2f}")
    print(f"the last line is the median; the gate is {GATE} s")
    if arguments.check and times[2] >= GATE:
        raise SystemExit("too slow")


if __name__ == "__main__":
    main()
