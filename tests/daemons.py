"""Nodes as processes, for tests: start them, ask them, read what they print, stop them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from gossip.cli import main

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
DIGITS = "models.digits:learner"
PATIENCE = 60.0  # seconds; only a test that fails waits so long
ROUND = 64  # samples that LINE trains on in one round

# A learner that is made at once and leaves the machine to others between its rounds.
LINE = """
import time
import gossip
import torch
from torch import nn

def learner(shard: int, seed: int, nan_after: int = 0, pause: float = 0.02, width: int = 4):
    torch.manual_seed(seed)
    model = nn.Linear(width, 2)
    inputs = torch.randn(64, width)
    targets = (inputs[:, 0] > 0).long()
    made = gossip.TorchLearner(
        model, [(inputs, targets)], nn.functional.cross_entropy, test=(inputs, targets), steps=1
    )
    train, rounds = made.train, 0

    def paced() -> int:
        nonlocal rounds
        time.sleep(pause)
        rounds += 1
        if nan_after and rounds > nan_after:
            model.weight.data.fill_(float("nan"))
        return train()

    made.train = paced
    return made

def stuck():
    print("importing", file=__import__("sys").stderr, flush=True)
    time.sleep(600)
"""


def eventually(what: str, check: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Poll until `check` returns something true, and return that."""
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)
    return found


def gossip(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command that ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "gossip", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=ENVIRONMENT | environment,
    )


def here(*arguments: object) -> Result:
    """Run a command that ends by itself in this process, which has loaded PyTorch already."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result


def listening(path: str) -> socket.socket:
    """A socket as systemd has it, which is told how a node is."""
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(path)
    receiver.settimeout(30)
    return receiver


class Node:
    """A process of `gossip run`."""

    def __init__(
        self,
        home: Path,
        name: str,
        target: str,
        *arguments: object,
        prefix: Sequence[str] = (),
        **popen: Any,
    ):
        self.state_dir = home / name
        self._log = home / f"{name}.log"
        command = [*prefix, sys.executable, "-m", "gossip", "run", target, "--json"]
        command += ["--state-dir", str(self.state_dir), *map(str, arguments)]
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env=ENVIRONMENT, **popen
            )

    @property
    def said(self) -> str:
        """Everything on stderr so far, of earlier processes of this name as well."""
        return self._log.read_text()

    def says(self, text: str, times: int = 1) -> None:
        """Wait until it stands on stderr."""
        eventually(f"{text!r} in:\n{self.said}", lambda: self.said.count(text) >= times)

    @property
    def api(self) -> dict[str, Any]:
        return json.loads((self.state_dir / "api.json").read_text())  # type: ignore[no-any-return]

    def status(self) -> dict[str, Any]:
        """Asked as a program would ask; waits for the node to come up."""

        def ask() -> Any:
            assert self.process.poll() is None, f"ended:\n{self.said}"
            try:
                api = self.api
                url = f"http://{api['address']}/api/v1/status"
                headers = {"Authorization": f"Bearer {api['token']}"}
                with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
                    return json.load(answer)
            except (FileNotFoundError, urllib.error.URLError):
                return None

        return eventually("a status", ask)  # type: ignore[no-any-return]

    @property
    def address(self) -> str:
        return self.status()["address"]  # type: ignore[no-any-return]

    def reaches(self, key: str, least: int) -> dict[str, Any]:
        """Wait until a number of its status, or the length of a list, is at least that."""

        def check() -> Any:
            status = self.status()
            value = status[key]
            return status if (len(value) if isinstance(value, list) else value) >= least else None

        return eventually(f"{key} >= {least}", check)  # type: ignore[no-any-return]

    def goes_on(self) -> None:
        """Wait until it has learnt more than now."""
        self.reaches("samples", self.status()["samples"] + 1)

    def ends(self, number: signal.Signals | None = None) -> tuple[int, str]:
        """Send a signal, if any; return the exit code and what stands on stdout."""
        if number is not None:
            self.process.send_signal(number)
        out, _ = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


Start = Callable[..., Node]


def starter(home: Path, stack: ExitStack) -> Start:
    """A function that starts nodes, which all end with the stack."""
    (home / "line.py").write_text(LINE)

    def start(name: str, *arguments: object, target: str = "", **popen: Any) -> Node:
        node = Node(home, name, target or f"{home / 'line.py'}:learner", *arguments, **popen)
        stack.callback(node.kill)
        return node

    return start
