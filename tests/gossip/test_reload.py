"""SIGHUP: what changes while a node runs. A mistake in the settings changes nothing."""

from __future__ import annotations

import os
import pty
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gossip.access import AccessConfig
from gossip.agent import AgentConfig
from gossip.budget import BURST, Budget, Limits
from gossip.codec import CodecConfig
from gossip.config import Config, check
from gossip.exchange import ExchangeConfig
from gossip.reload import LIVE, changes, merged
from p2p import network_key
from p2p.identity import Identity
from tests.daemons import Node, Start, eventually, listening

HOME = {"listen": "127.0.0.1:0", "lan": False}


# what can change ----------------------------------------------------------------------------------


def test_what_can_change_is_taken_over_and_the_rest_stays_as_it_runs() -> None:
    before = check(HOME | {"seed": 1}, "before")
    after = check(
        {
            **HOME,
            "seed": 2,
            "log_level": "error",
            "checkpoint_every": 3.0,
            "evaluate_every": 4.0,
            "agent": {"budget": "1 kB/s", "merge": "clipped"},
            "access": {"mode": "allow", "allow": "peers.txt"},
        },
        "after",
    )
    found = merged(before, after)
    access = AccessConfig(mode="allow", allow=Path("peers.txt"))
    assert found == replace(
        before,
        log_level="error",
        checkpoint_every=3.0,
        evaluate_every=4.0,
        agent=AgentConfig(budget="1 kB/s"),
        access=access,
    )
    told = {str(change): change.live for change in changes(before, after)}
    assert told['agent.budget: "" -> "1 kB/s"'] is True
    assert told['access.allow: none -> "peers.txt"'] is True
    assert told["seed: 1 -> 2"] is False
    assert told['agent.merge: "mean" -> "clipped"'] is False
    assert len(told) == 8
    assert {change.keys for change in changes(found, after)} & LIVE == set()


def test_a_section_that_comes_or_goes_is_a_change() -> None:
    with_codec = Config(agent=AgentConfig(exchange=ExchangeConfig(codec=CodecConfig())))
    for before, after in ((Config(), with_codec), (with_codec, Config())):
        found = [str(change) for change in changes(before, after)]
        assert any(line.startswith("agent.exchange.codec") for line in found)


def test_a_budget_that_shrinks_takes_what_was_saved_up_and_one_that_goes_owes_nothing() -> None:
    budget = Budget(Limits(per_second=1000.0))
    budget.limit(Limits(per_second=10.0), 5.0)
    assert budget.half(5.0) == 10 * BURST / 2
    budget.spend(10**9)
    assert not budget.allows(6.0)
    budget.limit(Limits(), 6.0)
    budget.spend(10**9)
    assert budget.allows(6.0)
    budget.limit(Limits(per_second=10.0), 7.0)
    assert budget.half(7.0) == 10 * BURST / 2
    budget.spend(50)
    budget.limit(Limits(per_second=1000.0), 7.0)
    assert budget.half(7.0) == (10 * BURST - 50) / 2, "a rise is no gift"


# a running node -----------------------------------------------------------------------------------


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "net.key"
    network_key.create(path)
    return path


def settings(home: Path, text: str = "") -> Path:
    path = home / "node.toml"
    path.write_text(f'listen = "127.0.0.1:0"\nlan = false\n{text}')
    return path


def hang_up(node: Node) -> None:
    node.process.send_signal(signal.SIGHUP)


def test_a_hangup_reads_the_settings_anew_and_says_what_changed(
    start: Start, tmp_path: Path, key: Path
) -> None:
    systemd = str(tmp_path / "systemd")
    other = start("other", "--network-key", key, "--listen", "127.0.0.1:0")
    them = other.status()["id"]
    allowed = tmp_path / "allowed"
    allowed.write_text(f"{them}\n")
    access = f'[access]\nmode = "allow"\nallow = "{allowed}"\n'
    config = settings(tmp_path, access)
    with listening(systemd) as receiver:
        node = start(
            "node",
            *("--network-key", key, "--config", config, "--join", other.address),
            prefix=["env", f"NOTIFY_SOCKET={systemd}"],
        )
        node.reaches("exchanges", 1)
        assert receiver.recv(100) == b"READY=1"

        settings(tmp_path, f'seed = 7\nlog_level = "info"\n[agent]\nbudget = "1 kB/s"\n{access}')
        hang_up(node)
        reloading = receiver.recv(100).decode().split("\n")
        assert reloading[0] == "RELOADING=1"
        name, _, when = reloading[1].partition("=")
        assert name == "MONOTONIC_USEC"
        assert 0 <= time.monotonic_ns() // 1000 - int(when) < 60_000_000
        assert receiver.recv(100) == b"READY=1"
        assert 'agent.budget: "" -> "1 kB/s"\n' in node.said
        assert "seed: 0 -> 7 needs a restart\n" in node.said
        node.says("ExchangeCompleted")  # the log level is another one

        config.write_text('seeed = 7\nlisten = 5\n[agent]\nbudget = "a lot"\n')
        hang_up(node)
        node.says("nothing is changed")
        (line,) = [line for line in node.said.splitlines() if "nothing is changed" in line]
        for part in ("line 1:", "did you mean seed", "line 2:", "line 3:", "'a lot' is no budget"):
            assert part in line
        assert [receiver.recv(100).split(b"=")[0] for _ in range(2)] == [b"RELOADING", b"READY"]

        settings(tmp_path, f'log_level = "warning"\n[agent]\nbudget = "1 kB/s"\n{access}')
        allowed.write_text(f"{Identity.generate().id}\n")
        hang_up(node)
        node.says("it is not in the list of allowed peers any more")
        assert node.status()["peers"] == []
        hang_up(node)
        node.says("no setting has changed")
        node.goes_on()
    assert node.ends(signal.SIGTERM)[0] == 0
    assert "Traceback" not in node.said


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    ours, theirs = pty.openpty()
    yield ours, theirs
    os.close(theirs)


def test_a_terminal_that_is_closed_is_the_end_and_the_model_is_saved(
    start: Start, tmp_path: Path, terminal: tuple[int, int]
) -> None:
    ours, theirs = terminal
    node = start(
        "node",
        "--config",
        settings(tmp_path),
        prefix=["setsid", "--ctty", "sh", "-c", 'exec "$@" 2>&0', "sh"],
        stdin=theirs,
    )
    node.reaches("samples", 1)
    os.close(ours)
    code, _ = node.ends()
    assert code == 0
    eventually("a checkpoint", (node.state_dir / "checkpoint.safetensors").exists)
