"""I/O: a swarm on this machine, each node a process of its own.

Nothing here is a simulation: the nodes are started, asked and stopped as an operator would, with
`gossip run`, its local API and SIGTERM.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from gossip import client
from gossip.target import build, load

TARGET = "models.digits:learner"
START_TIMEOUT = 120.0  # seconds until a node must answer; importing torch takes 3 to 20
STOP_TIMEOUT = 30.0  # seconds from SIGTERM to exit
ALONE_ROUNDS = 500  # of training for the comparison; two classes are learnt in a fraction of it


class DemoFailed(Exception):
    """A node did not start or did not end well; the text holds what it said."""


class _Daemon:
    """One node: its process, and what it takes to start it again."""

    def __init__(self, directory: Path, index: int, nodes: int, seconds: float) -> None:
        self.index = index
        self.known: dict[str, Any] = {}  # its last status
        self._state_dir = directory / f"node{index}"
        self._stderr = directory / f"node{index}.log"
        self._command = [sys.executable, "-P", "-m", "gossip", "run", TARGET, "--json"]
        self._command += ["--shard", f"{index}/{nodes}", "--state-dir", str(self._state_dir)]
        self._command += ["--option", "split=shards", "--option", f"classes={_classes(nodes)}"]
        # Should the demo itself be killed, its nodes end some time later.
        most = seconds + START_TIMEOUT + STOP_TIMEOUT
        self._command += ["--seconds", str(most)]
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
        """Whether somebody has killed it. Raises DemoFailed if it has ended by itself."""
        code = self.process.poll() if self.process else None
        if code is not None and code >= 0:
            raise DemoFailed(f"a node ended with code {code}:\n{self._stderr.read_text()}")
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
                raise DemoFailed(f"a node was killed while it started:\n{self._stderr.read_text()}")
            if self.ask():
                return
            time.sleep(0.1)
        raise DemoFailed(f"a node did not answer within {START_TIMEOUT:.0f} s")

    def stop(self) -> dict[str, Any]:
        """Its last words; send SIGTERM before."""
        assert self.process is not None
        try:
            printed, _ = self.process.communicate(timeout=STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise DemoFailed(f"a node did not stop within {STOP_TIMEOUT:.0f} s") from None
        if self.process.returncode != 0:
            raise DemoFailed(
                f"a node ended with code {self.process.returncode}:\n{self._stderr.read_text()}"
            )
        found: dict[str, Any] = json.loads(printed)
        return found


def run(nodes: int, seconds: float) -> dict[str, Any]:
    """Run the demo; returns what `gossip demo --json` prints."""
    console = Console(stderr=True)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gossip-demo-")))
        daemons = [_Daemon(directory, index, nodes, seconds) for index in range(nodes)]
        stack.callback(_kill, daemons)
        console.print(f"starting {nodes} nodes ...")
        daemons[0].start(None)
        daemons[0].wait()
        for daemon in daemons[1:]:
            daemon.start(daemons[0].known["address"])
        for daemon in daemons[1:]:
            daemon.wait()
        _watch(daemons, seconds, console)
        ended = _stop(daemons)
    console.print("training each node alone, for the comparison ...")
    return summary([_row(status, index, nodes) for index, status in enumerate(ended)])


def _classes(nodes: int) -> int:
    """Two of the ten digits for each node, more where five nodes do not share them all."""
    return max(2, -(-10 // nodes))


def _watch(daemons: list[_Daemon], seconds: float, console: Console) -> None:
    """Show progress until the time is over. Who is killed is started again, as init would."""
    deadline = time.monotonic() + seconds
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while (left := deadline - time.monotonic()) > 0:
            for daemon in daemons:
                if daemon.killed:
                    console.print(f"node {daemon.index} was killed; starting it again")
                    other = daemons[daemon.index - 1]
                    daemon.start(other.known["address"])
                daemon.ask()
            live.update(_progress([daemon.known for daemon in daemons], left), refresh=True)
            time.sleep(min(1.0, max(deadline - time.monotonic(), 0)))


def _progress(statuses: list[dict[str, Any]], left: float) -> Table:
    table = Table("node", "peers", "accuracy", "exchanges", "sent", title=f"{left:.0f} s to go")
    for index, status in enumerate(statuses):
        if status:
            table.add_row(
                str(index),
                str(len(status["peers"])),
                f"{status['metrics'].get('accuracy', 0):.3f}",
                f"{status['exchanges']:,}",
                f"{status['bytes_sent'] / 1e6:.2f} MB",
            )
    return table


def _stop(daemons: list[_Daemon]) -> list[dict[str, Any]]:
    for daemon in daemons:
        daemon.wait()  # somebody may have killed it just now
    for daemon in daemons:
        if daemon.process is not None:
            daemon.process.terminate()
    return [daemon.stop() for daemon in daemons]


def _kill(daemons: list[_Daemon]) -> None:
    """Leave nothing behind, whatever went wrong."""
    started = [daemon.process for daemon in daemons if daemon.process is not None]
    for process in started:
        process.kill()
    for process in started:
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _row(status: dict[str, Any], index: int, nodes: int) -> dict[str, Any]:
    return {
        "id": status["id"],
        "accuracy": status["metrics"]["accuracy"],
        "accuracy_alone": _accuracy_alone(index, nodes),
        "bytes_sent": status["bytes_sent"],
        "bytes_dense": status["bytes_dense"],
        "exchanges": status["exchanges"],
    }


def _accuracy_alone(index: int, nodes: int) -> float:
    """What the same learner reaches on its own shard without anybody."""
    import torch

    torch.set_num_threads(1)
    options = {"split": "shards", "classes": str(_classes(nodes))}
    learner = build(load(TARGET), index, nodes, 0, options)
    for _ in range(ALONE_ROUNDS):
        learner.train()
    return learner.evaluate()["accuracy"]


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The rows and what they come to."""
    sent = sum(row["bytes_sent"] for row in rows)
    return {
        "nodes": rows,
        "accuracy_min": min(row["accuracy"] for row in rows),
        "accuracy_mean": sum(row["accuracy"] for row in rows) / len(rows),
        "accuracy_alone_mean": sum(row["accuracy_alone"] for row in rows) / len(rows),
        "bytes_ratio": sum(row["bytes_dense"] for row in rows) / sent,
    }


def show(outcome: dict[str, Any]) -> None:
    """Print the table for people."""
    table = Table("node", "alone", "swarm", "exchanges", "sent", "as fp32")
    for row in outcome["nodes"]:
        table.add_row(
            row["id"][:8],
            f"{row['accuracy_alone']:.1%}",
            f"{row['accuracy']:.1%}",
            f"{row['exchanges']:,}",
            f"{row['bytes_sent'] / 1e6:.2f} MB",
            f"{row['bytes_dense'] / 1e6:.2f} MB",
        )
    console = Console()
    console.print(table)
    console.print(
        f"accuracy alone {outcome['accuracy_alone_mean']:.1%}, in the swarm "
        f"{outcome['accuracy_mean']:.1%} (worst node {outcome['accuracy_min']:.1%}), "
        f"{outcome['bytes_ratio']:.0f} times fewer bytes than fp32 gossip"
    )
