"""Many nodes at the price of one start: a process loads everything, and every node is a fork of it.

What runs in the forks is the command `gossip run`, as in any other process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.daemons import ENVIRONMENT, PATIENCE
from tests.net.machine import Machine, Resident

PROGRAM = """
import ctypes, json, os, signal, sys
import sklearn.datasets, torch
import gossip.daemon
from gossip.cli import main

torch.optim.SGD([torch.zeros(1)], lr=1)  # imports the rest of PyTorch
for namespace, home, arguments in json.load(sys.stdin):
    if os.fork() == 0:
        if ctypes.CDLL(None).setns(os.open(f"/run/netns/{namespace}", os.O_RDONLY), 0) != 0:
            sys.exit("setns failed")
        for stream, ending in ((1, "out"), (2, "log")):
            os.dup2(os.open(f"{home}.{ending}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        try:
            main(arguments)
        finally:
            sys.stdout.flush()
            os._exit(0)  # a fork would wait for threads that it has not
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    try:
        os.wait()
    except ChildProcessError:
        break
"""


class Fork(Resident):
    """A node that is a fork; its `process` lives as long as any of them."""

    def __init__(self, machine: Machine, home: Path, process: subprocess.Popen[str]) -> None:
        self.machine = machine
        self.process = process
        self.state_dir = home
        self._log = home.with_name(f"{home.name}.log")

    def last_words(self) -> dict[str, Any]:
        """What it printed when it ended."""
        return json.loads(self.state_dir.with_name(f"{self.state_dir.name}.out").read_text())


class Nursery:
    """Starts nodes together, and stops them together.

    Args:
        nodes: for each its machine, its name and what follows `gossip run`.
    """

    def __init__(self, home: Path, nodes: Sequence[tuple[Machine, str, Sequence[object]]]) -> None:
        with (home / "nursery.log").open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM],
                stdin=subprocess.PIPE,
                stderr=log,
                text=True,
                env=ENVIRONMENT,
                start_new_session=True,  # so that all of them can be told at once
            )
        self.nodes = [Fork(machine, home / name, self._process) for machine, name, _ in nodes]
        orders = [
            (
                node.machine.name,
                str(node.state_dir),
                ["run", *map(str, arguments), "--json", "--state-dir", str(node.state_dir)],
            )
            for node, (_, _, arguments) in zip(self.nodes, nodes, strict=True)
        ]
        assert self._process.stdin is not None
        json.dump(orders, self._process.stdin)
        self._process.stdin.close()

    def stop(self) -> list[dict[str, Any]]:
        """What each of them printed in the end."""
        self._signal(signal.SIGTERM)
        self._process.wait(PATIENCE)
        return [node.last_words() for node in self.nodes]

    def kill(self) -> None:
        if self._process.poll() is None:
            self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        os.killpg(self._process.pid, number)
