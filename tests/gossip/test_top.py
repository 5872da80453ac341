"""`gossip top`, on a terminal of its own."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from io import StringIO
from select import select
from typing import Any

from rich.console import Console

from gossip.top import rates, view
from tests.daemons import ENVIRONMENT, Start, here

STATUS = {
    "id": "abcdefghijk",
    "address": "127.0.0.1:1",
    "age_seconds": 10.0,
    "samples": 100,
    "exchanges": 5,
    "bytes_sent": 1000,
    "bytes_received": 0,
    "metrics": {"accuracy": 0.5, "loss": None},
}
LINK = {"id": "peerpeerpeer", "state": "up", "path": "udp", "rtt": 0.0015, "loss": 0.25}


def drawn(found: dict[str, Any], speed: dict[str, float]) -> str:
    console = Console(file=StringIO(), width=80)
    console.print(view(found, speed))
    return console.file.getvalue()  # type: ignore[attr-defined]


def read_until(terminal: int, text: str) -> str:
    """What a terminal shows, until that stands there or the program ends."""
    seen = ""
    while text not in seen:
        assert select([terminal], [], [], 30)[0], f"{text!r} is not in {seen!r}"
        try:
            seen += os.read(terminal, 4096).decode(errors="replace")
        except OSError:  # Linux: nobody writes there any more
            raise AssertionError(f"{text!r} is not in {seen!r}") from None
    return seen


def test_it_draws_a_node_that_runs_until_it_is_interrupted(start: Start) -> None:
    node = start("one")
    me = node.status()["id"]
    found = json.loads(here("top", "--state-dir", node.state_dir, "--json").stdout)
    assert found["status"]["id"] == found["peers"]["id"] == me
    done = here("top", "--state-dir", node.state_dir)
    assert (done.exit_code, "draws on a terminal" in done.stderr) == (2, True)

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "gossip", "top", "--state-dir", str(node.state_dir)]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=ENVIRONMENT | {"TERM": "xterm"}
    )
    try:
        os.close(theirs)
        read_until(ours, me[:8])
        read_until(ours, "a second")  # drawn anew
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
    finally:
        process.kill()
        os.close(ours)


def test_it_shows_neighbours_by_name_and_takes_no_markup_from_them() -> None:
    roster = [{"id": LINK["id"], "name": "[bold]her[/bold]"}]
    found = {"status": STATUS, "peers": {"neighbours": [LINK], "roster": roster}}
    text = drawn(found, {"samples": 12.5})
    assert "accuracy 0.5000  loss not finite" in text
    assert "12.5 a second" in text
    line = next(line for line in text.splitlines() if line.startswith("peerpeer"))
    assert line.split() == ["peerpeer", "[bold]her[/bold]", "up", "udp", "1.5", "ms", "25%"]
    assert "1 on the network" in text


def test_rates_are_a_second_and_none_of_a_node_that_was_started_anew() -> None:
    after = STATUS | {"age_seconds": 12.0, "samples": 150}
    assert rates(STATUS, after)["samples"] == 25
    assert rates(after, STATUS) == {}
