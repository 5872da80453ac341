"""I/O: nodes as processes of this machine, started, asked and stopped as an operator would: with
`gossip run`, its local API and SIGTERM.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gossip import client

START_TIMEOUT = 120.0  # seconds until a node must answer; importing torch takes 3 to 20
STOP_TIMEOUT = 30.0  # seconds from SIGTERM to exit


class DaemonFailed(Exception):
    """A node did not start or did not end well; the text holds what it said."""


class Daemon:
    """One node: its process, and what it takes to start it again.

    Args:
        directory: where its state and its log go.
        index: its number, of `nodes`.
        seconds: after which it ends in any case, should nobody be left to stop it.
        arguments: more of `gossip run`.
    """

    def __init__(
        self,
        directory: Path,
        index: int,
        nodes: int,
        seconds: float,
        target: str,
        *arguments: str,
    ) -> None:
        self.index = index
        self.known: dict[str, Any] = {}  # its last status
        self._state_dir = directory / f"node{index}"
        self._stderr = directory / f"node{index}.log"
        self._command = [sys.executable, "-P", "-m", "gossip", "run", target, "--json"]
        self._command += ["--shard", f"{index}/{nodes}", "--state-dir", str(self._state_dir)]
        most = seconds + START_TIMEOUT + STOP_TIMEOUT
        self._command += ["--seconds", str(most), *arguments]
        self.process: subprocess.Popen[str] | None = None

    def start(self, join: str | None) -> None:
        """Start the process, for the first time or from what its state directory holds."""
        with self._stderr.open("a") as log:
            self.process = subprocess.Popen(
                self._command + (["--join", join] if join else []),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C is for us; we stop the nodes in good order
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )

    @property
    def killed(self) -> bool:
        """Whether somebody has killed it. Raises DaemonFailed if it has ended by itself."""
        code = self.process.poll() if self.process else None
        if code is not None and code >= 0:
            raise DaemonFailed(f"a node ended with code {code}:\n{self._stderr.read_text()}")
        return code is not None

    def ask(self) -> bool:
        """Learn its status; False while it does not answer."""
        try:
            self.known = client.status(self._state_dir, None)
        except client.Unreachable:
            return False
        return True

    def wait(self) -> None:
        """Until it answers."""
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            if self.killed:
                raise DaemonFailed(
                    f"a node was killed while it started:\n{self._stderr.read_text()}"
                )
            if self.ask():
                return
            time.sleep(0.1)
        raise DaemonFailed(f"a node did not answer within {START_TIMEOUT:.0f} s")

    def stop(self) -> dict[str, Any]:
        """Its last words; send SIGTERM before."""
        assert self.process is not None
        try:
            printed, _ = self.process.communicate(timeout=STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise DaemonFailed(f"a node did not stop within {STOP_TIMEOUT:.0f} s") from None
        if self.process.returncode != 0:
            raise DaemonFailed(
                f"a node ended with code {self.process.returncode}:\n{self._stderr.read_text()}"
            )
        found: dict[str, Any] = json.loads(printed)
        return found


def start(daemons: Iterable[Daemon]) -> None:
    """Start them and wait until all are up; they join through the first."""
    first, *others = daemons
    first.start(None)
    first.wait()
    for daemon in others:
        daemon.start(first.known["address"])
    for daemon in others:
        daemon.wait()


def kill(daemons: Iterable[Daemon]) -> None:
    """Leave nothing behind, whatever went wrong."""
    started = [daemon.process for daemon in daemons if daemon.process is not None]
    for process in started:
        process.kill()
    for process in started:
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
