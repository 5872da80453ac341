"""A node whose disk is full goes on learning, says so, and saves again when there is room."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from gossip import checkpoint
from gossip.audit import DIRECTORY, check
from gossip.checkpoint import NAME
from p2p import PeerId
from p2p.identity import Identity
from tests.daemons import LINE, Node, Start, eventually, here

MOUNT = 'mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"'
WIDTH = 4000  # of the model: a checkpoint has 100 kB


@cache
def missing() -> str | None:
    """Why nothing can be mounted here; None if it can."""
    command = ["unshare", "--mount", "sh", "-c", MOUNT, "/mnt", "true"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        return f"there is no unshare: {error}"
    return None if done.returncode == 0 else f"nothing can be mounted here: {done.stderr.strip()}"


class Cramped(Node):
    """A node that keeps its state on a disk of 1 MiB, which only it sees."""

    def __init__(self, home: Path, *arguments: object) -> None:
        disk = home / "disk"
        disk.mkdir()
        (home / "line.py").write_text(LINE)
        prefix = ["unshare", "--mount", "sh", "-c", MOUNT, str(disk)]
        target = f"{home / 'line.py'}:learner"
        super().__init__(home, "disk/node", target, *arguments, prefix=prefix)
        self.disk = Path(f"/proc/{self.process.pid}/root{disk}")
        self.state_dir = self.disk / "node"

    @property
    def saved(self) -> dict[str, Any]:
        return self.status()["saved"]  # type: ignore[no-any-return]

    def fill(self) -> None:
        """Leave no room at all."""
        with (self.disk / "filler").open("wb", buffering=0) as file:
            for size in (1 << 16, 1):
                try:
                    while file.write(bytes(size)):
                        pass
                except OSError:
                    pass


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Cramped]:
    if reason := missing():
        pytest.skip(reason)
    settings = tmp_path / "node.toml"
    settings.write_text("checkpoint_every = 0.1\nevaluate_every = 0.5\n")
    with ExitStack() as stack:
        made = Cramped(tmp_path, "--option", f"width={WIDTH}", "--config", settings)
        stack.callback(made.kill)
        yield made


def test_a_node_on_a_full_disk_learns_on_and_saves_when_there_is_room(node: Cramped) -> None:
    eventually("a checkpoint", lambda: node.saved["seconds_ago"] is not None)
    node.fill()
    eventually("trouble", lambda: node.saved["trouble"] == "No space left on device")
    before = checkpoint.load(node.state_dir / NAME)
    assert before is not None, "what was written is still there"
    assert before.warning is None
    status = here("status", "--state-dir", node.state_dir)
    assert "and not since: No space left on device; learning goes on" in status.stdout
    for _ in range(30):  # as many lines as fill the last page that the audit log has
        refused = here("ban", Identity.generate().id, "--state-dir", node.state_dir)
        assert refused.exit_code != 0
        assert "No space left on device" in refused.stderr
    node.reaches("samples", int(before.metadata["samples"]) + 1000)
    assert node.said.count("no checkpoint written to") == 1, "it is said once, and tried often"
    assert node.said.count("cannot write the audit log") == 1
    assert {path.name for path in node.state_dir.iterdir()} <= {
        "identity.key", "lock", DIRECTORY, "api.json", NAME, f"{NAME}.previous"
    }, "no half of anything"  # fmt: skip
    (node.disk / "filler").unlink()
    node.says("are written to")
    eventually("no trouble", lambda: node.saved["trouble"] is None)
    found = checkpoint.load(node.state_dir / NAME)
    assert found is not None
    assert found.metadata["samples"] > before.metadata["samples"]
    assert here("ban", Identity.generate().id, "--state-dir", node.state_dir).exit_code == 0
    verified = check(node.state_dir / DIRECTORY, PeerId.parse(node.status()["id"]))
    assert verified.lines > 2
    lines = (node.state_dir / DIRECTORY / "000001.jsonl").read_text().splitlines()
    assert any(json.loads(line).get("lost") for line in lines), "and it says how many are lost"
    code, out = node.ends(signal.SIGTERM)
    assert code == 0, node.said
    assert json.loads(out)["saved"]["trouble"] is None
    assert "Traceback" not in node.said


def test_a_log_that_takes_no_more_stops_nobody(start: Start) -> None:
    node = start("node", "--seconds", 2, prefix=["sh", "-c", 'exec "$@" 2>/dev/full', "sh"])
    code, out = node.ends()
    assert code == 0
    assert json.loads(out)["samples"] > 0
    assert (node.state_dir / NAME).exists()
