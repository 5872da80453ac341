"""Nodes that are killed and start again, at the price of one start: each life is a fork.

A process loads everything once. What runs in the forks is the command `gossip run`, as in any other
process.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.daemons import ENVIRONMENT, LINE, PATIENCE, Node

PROGRAM = """
import json, os, signal, sys
import torch
import gossip.daemon
from gossip.cli import main

torch.optim.SGD([torch.zeros(1)], lr=1)  # imports the rest of PyTorch
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody has to be waited for
for order in sys.stdin:
    log, arguments = json.loads(order)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDWR)
        ending = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream, instead in ((0, nothing), (1, nothing), (2, ending)):
            os.dup2(instead, stream)
        try:
            main(arguments)
        finally:
            os._exit(0)  # a fork would wait for threads that it has not
    print(child, flush=True)
"""


class Lives(Node):
    """A node that lives again and again, with one state directory.

    Args:
        arguments: what follows `gossip run TARGET`.
    """

    def __init__(self, home: Path, name: str, womb: Womb, *arguments: object) -> None:
        self.state_dir = home / name
        self.process = womb.process
        self._log = home / f"{name}.log"
        self._womb = womb
        self._arguments = ["run", f"{home / 'line.py'}:learner", *map(str, arguments)]
        self._arguments += ["--state-dir", str(self.state_dir)]
        self._pid = self._life = -1

    def begin(self) -> None:
        """Start; `status` waits until it is up."""
        self._pid = self._womb.bear(self._log, self._arguments)
        self._life = os.pidfd_open(self._pid)

    @property
    def api(self) -> dict[str, Any]:
        found = super().api
        if found["pid"] != self._pid:
            assert not self._over(0), f"ended:\n{self.said}"
            raise FileNotFoundError  # it is still that of an earlier life
        return found

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal, and wait for the end."""
        signal.pidfd_send_signal(self._life, number)
        assert self._over(PATIENCE)
        os.close(self._life)

    def _over(self, seconds: float) -> bool:
        return bool(select.select([self._life], [], [], seconds)[0])


class Womb:
    """The process of which they are forks."""

    def __init__(self, home: Path) -> None:
        (home / "line.py").write_text(LINE)
        with (home / "womb.log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=ENVIRONMENT,
                start_new_session=True,
            )

    def bear(self, log: Path, arguments: list[str]) -> int:
        """The number of the process that runs the command."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps([str(log), arguments]), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())

    def close(self) -> None:
        """Kill all that live."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()
