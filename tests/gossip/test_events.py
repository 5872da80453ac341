"""`gossip events`, of a node that runs and of what is none."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gossip.events_commands import shown
from tests.daemons import ENVIRONMENT, Start, eventually, here

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


def test_it_tells_what_happens_until_the_node_ends(start: Start, follow: Follow) -> None:
    one = start("one")
    address = one.address
    json_ = follow("json", "--state-dir", one.state_dir, "--json")
    people = follow("people", "--state-dir", one.state_dir, "-v")
    two = start("two", "--join", address)
    for follower in (json_, people):
        eventually("an exchange", lambda it=follower: "exchange_completed" in it.told)
    other = follow("other", "--state-dir", two.state_dir)

    done = here("events", "--api", one.api["address"])
    assert done.exit_code == 4
    assert "refuses the token" in done.stderr

    two.kill()
    code, said = other.ends()
    assert code == 4
    assert said.startswith("gossip: lost the node at 127.0.0.1:")
    done = here("events", "--state-dir", two.state_dir)  # its api.json is still there
    assert done.exit_code == 4
    assert "no node answers at" in done.stderr

    people.process.send_signal(signal.SIGINT)
    assert people.ends()[0] == 130
    one.ends(signal.SIGTERM)
    assert json_.ends() == (0, "the node has ended")
    told = [json.loads(line) for line in json_.told.splitlines()]
    assert {"peer_up", "exchange_completed", "log"} <= {event["type"] for event in told}
    assert all(event["time"] > 0 for event in told)
    assert "linked with" in people.told


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
