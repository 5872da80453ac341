"""I/O: a swarm on this machine, each node a process of its own.

Nothing here is a simulation: the nodes are started, asked and stopped as an operator would, with
`gossip run`, its local API and SIGTERM.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from gossip.processes import Daemon, kill, start
from gossip.target import build, load

TARGET = "models.digits:learner"
ALONE_ROUNDS = 500  # of training for the comparison; two classes are learnt in a fraction of it


def run(nodes: int, seconds: float) -> dict[str, Any]:
    """Run the demo; returns what `gossip demo --json` prints."""
    console = Console(stderr=True)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gossip-demo-")))
        shards = ("--option", "split=shards", "--option", f"classes={_classes(nodes)}")
        daemons = [
            Daemon(directory, index, nodes, seconds, TARGET, *shards) for index in range(nodes)
        ]
        stack.callback(kill, daemons)
        console.print(f"starting {nodes} nodes ...")
        start(daemons)
        _watch(daemons, seconds, console)
        ended = _stop(daemons)
    console.print("training each node alone, for the comparison ...")
    return summary([_row(status, index, nodes) for index, status in enumerate(ended)])


def _classes(nodes: int) -> int:
    """Two of the ten digits for each node, more where five nodes do not share them all."""
    return max(2, -(-10 // nodes))


def _watch(daemons: list[Daemon], seconds: float, console: Console) -> None:
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


def _stop(daemons: list[Daemon]) -> list[dict[str, Any]]:
    for daemon in daemons:
        daemon.wait()  # somebody may have killed it just now
    for daemon in daemons:
        if daemon.process is not None:
            daemon.process.terminate()
    return [daemon.stop() for daemon in daemons]


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
