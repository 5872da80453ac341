"""`gossip events` and `gossip top`, of nodes that run and of what is none."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from io import StringIO
from pathlib import Path
from select import select
from typing import Any

import pytest
from rich.console import Console

from gossip.events_commands import shown
from gossip.top import rates, view
from tests.daemons import ENVIRONMENT, Start, eventually, here

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
Follow = Callable[..., "Follower"]


@pytest.fixture
def follow(tmp_path: Path) -> Iterator[Follow]:
    """Starts followers and waits until each is connected."""
    with ExitStack() as stack:

        def start(name: str, *arguments: object) -> Follower:
            follower = Follower(tmp_path, name, *arguments)
            stack.callback(follower.process.wait)
            stack.callback(follower.process.kill)
            eventually("it follows", lambda: follower.said)
            return follower

        yield start


class Follower:
    """A process of `gossip events` that is connected."""

    def __init__(self, home: Path, name: str, *arguments: object) -> None:
        self._out, self._said = home / f"{name}.out", home / f"{name}.said"
        command = [sys.executable, "-m", "gossip", "events", *map(str, arguments)]
        with self._out.open("w") as out, self._said.open("w") as said:
            self.process = subprocess.Popen(command, stdout=out, stderr=said, env=ENVIRONMENT)

    @property
    def told(self) -> str:
        return self._out.read_text()

    @property
    def said(self) -> list[str]:
        return self._said.read_text().splitlines()

    def ends(self) -> tuple[int, str]:
        return self.process.wait(timeout=30), self.said[-1]


def test_a_node_is_followed_and_watched_until_it_ends(start: Start, follow: Follow) -> None:
    one = start("one")
    address = one.address
    json_ = follow("json", "--state-dir", one.state_dir, "--json")
    two = start("two", "--join", address)
    two.status()
    people = follow("people", "--state-dir", two.state_dir, "-v")
    for follower in (json_, people):
        eventually("an exchange", lambda it=follower: "exchange_completed" in it.told)
    watch(one.state_dir, one.status()["id"][:8], two.status()["id"][:8])

    done = here("events", "--api", one.api["address"])
    assert done.exit_code == 4
    assert "refuses the token" in done.stderr

    two.kill()
    code, said = people.ends()
    assert code == 4
    assert said.startswith("gossip: lost the node at 127.0.0.1:")
    for command in ("events", "top"):
        done = here(command, "--state-dir", two.state_dir, "--json")  # its api.json is still there
        assert done.exit_code == 4
        assert "no node answers at" in done.stderr

    one.ends(signal.SIGTERM)
    assert json_.ends() == (0, "the node has ended")
    told = [json.loads(line) for line in json_.told.splitlines()]
    assert {"peer_up", "exchange_completed", "log"} <= {event["type"] for event in told}
    assert all(event["time"] > 0 for event in told)


def watch(state_dir: Path, me: str, neighbour: str) -> None:
    """`gossip top` on a terminal of its own, until it is interrupted."""
    found = json.loads(here("top", "--state-dir", state_dir, "--json").stdout)
    assert found["status"]["id"][:8] == found["peers"]["id"][:8] == me
    done = here("top", "--state-dir", state_dir)
    assert (done.exit_code, "draws on a terminal" in done.stderr) == (2, True)

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "gossip", "top", "--state-dir", str(state_dir)]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=ENVIRONMENT | {"TERM": "xterm"}
    )
    try:
        os.close(theirs)
        read_until(ours, me)
        read_until(ours, neighbour)
        read_until(ours, "a second")  # drawn anew
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
    finally:
        process.kill()
        os.close(ours)


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


def test_without_a_node_it_says_what_to_do(tmp_path: Path) -> None:
    for arguments, said in (
        (("--state-dir", tmp_path), "no node runs with"),
        (("--api", "127.0.0.1:1"), "no node answers at 127.0.0.1:1"),
        (("--api", "no address"), "no node answers at no address"),
    ):
        done = here("events", *arguments)
        (line,) = done.stderr.splitlines()
        assert (done.exit_code, done.stdout) == (4, "")
        assert said in line
    assert here("events").exit_code == 2


def test_what_a_peer_says_cannot_write_to_the_terminal() -> None:
    line = shown({"type": "log", "time": 0, "text": "lost \x1b[31mred\nnext"}, verbose=False)
    assert line is not None
    assert line.endswith("lost ?[31mred?next")
    event = {"type": "peer_up", "time": 0, "peer": {"id": "abcdefghijk", "address": "h:1"}}
    assert shown(event, verbose=False) is None
    assert str(shown(event, verbose=True)).endswith("peer_up  peer=abcdefgh")


def drawn(found: dict[str, Any], speed: dict[str, float]) -> str:
    console = Console(file=StringIO(), width=80)
    console.print(view(found, speed))
    return console.file.getvalue()  # type: ignore[attr-defined]


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
