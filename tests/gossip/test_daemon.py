"""Nodes as an operator runs them: processes, signals, files, ports, and what they print."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.daemons import (
    DIGITS,
    ENVIRONMENT,
    LINE,
    PATIENCE,
    ROUND,
    Node,
    Start,
    eventually,
    gossip,
    here,
    starter,
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Node]]:
    """Two nodes that exchange; tests use them, and leave them running.

    The second one has a seed besides at which nobody listens.
    """
    home = tmp_path_factory.mktemp("pair")
    impatient = home / "impatient.toml"
    impatient.write_text(
        "[swarm]\nseed_every = 0.1\nseed_most = 0.2\n"
        "[swarm.links]\nrequest_timeout = 0.05\nrequest_attempts = 1\n"
    )
    with ExitStack() as stack, socket.socket(type=socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{silent.getsockname()[1]}"
        start = starter(home, stack)
        a = start("a", "--shard", "0/2")
        b = start(
            "b", "--shard", "1/2", "--join", a.address, "--join", nobody, "--config", impatient
        )
        a.reaches("exchanges", 1)
        b.reaches("exchanges", 1)
        yield a, b


def one_line(said: str, *parts: str) -> None:
    """Say in one line what is wrong."""
    (line,) = said.strip().splitlines()
    assert line.startswith("gossip: ")
    for part in parts:
        assert part in line


# a running node -----------------------------------------------------------------------------------


def test_status_tells_by_state_dir_and_by_address_how_a_node_is(pair: tuple[Node, Node]) -> None:
    a, b = pair
    by_directory = gossip("status", "--state-dir", a.state_dir, "--json")
    assert by_directory.returncode == 0
    found = json.loads(by_directory.stdout)
    assert found["address"] == a.address
    assert [peer["id"] for peer in found["peers"]] == [b.status()["id"]]
    for number in ("age_seconds", "samples", "exchanges", "bytes_sent", "bytes_received"):
        assert found[number] > 0
    assert 0 <= found["metrics"]["accuracy"] <= 1
    api = a.api
    by_address = gossip("status", "--api", api["address"], "--json", GOSSIP_API_TOKEN=api["token"])
    assert json.loads(by_address.stdout)["id"] == found["id"]
    for_people = gossip("status", "--state-dir", a.state_dir)
    assert for_people.returncode == 0
    assert found["id"] in for_people.stdout


def test_peers_tells_whom_a_node_knows_and_how_it_reaches_them(pair: tuple[Node, Node]) -> None:
    a, b = pair
    other = b.status()

    def found() -> dict[str, Any]:
        asked = gossip("peers", "--state-dir", a.state_dir, "--json")
        assert asked.returncode == 0, asked.stderr
        answer: dict[str, Any] = json.loads(asked.stdout)
        return answer

    both = {other["id"], a.status()["id"]}
    eventually("both records", lambda: {entry["id"] for entry in found()["roster"]} == both)
    (link,) = found()["neighbours"]
    assert (link["id"], link["address"]) == (other["id"], b.address)
    assert link["bytes_sent"] > 0
    assert link["bytes_received"] > 0
    assert 0 <= link["loss"] <= 1
    (entry,) = (entry for entry in found()["roster"] if entry["id"] == other["id"])
    assert entry["name"] == socket.gethostname()[:32]
    assert entry["age_seconds"] >= 0
    for_people = gossip("peers", "--state-dir", a.state_dir)
    assert for_people.returncode == 0
    assert f"udp {b.address}" in for_people.stdout
    assert "this node" in for_people.stdout


def test_the_api_is_for_its_owner_only(pair: tuple[Node, Node]) -> None:
    a, _ = pair
    path = a.state_dir / "api.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    api = a.api

    def answer(path: str, token: bytes | None) -> int:
        host, _, port = api["address"].rpartition(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
            header = b"" if token is None else b"Authorization: Bearer " + token + b"\r\n"
            connection.sendall(
                f"GET {path} HTTP/1.0\r\n".encode() + header + b"\r\n",
            )
            return int(connection.makefile("rb").readline().split()[1])

    token = api["token"].encode()
    assert answer("/api/v1/status", token) == 200
    assert answer("/api/v1/status", None) == 401
    assert answer("/api/v1/status", token[:-1]) == 401
    assert answer("/api/v1/status", "t\xf6ken".encode("latin-1")) == 401
    assert answer("/api/v1/stat", None) == 401
    assert answer("/api/v1/stat", token) == 404
    assert answer("/", None) == 200  # the pages' code, which holds nothing
    assert answer("/api.json", token) == 404
    refused = gossip("status", "--api", api["address"], GOSSIP_API_TOKEN="wrong")
    assert refused.returncode == 4
    one_line(refused.stderr, api["address"], "token", "GOSSIP_API_TOKEN")


def test_random_bytes_at_every_port_change_nothing(pair: tuple[Node, Node]) -> None:
    a, b = pair
    rng = random.Random(0)
    host, _, port = a.address.rpartition(":")
    swarm = (host, int(port))
    host, _, port = a.api["address"].rpartition(":")
    api = (host, int(port))
    request = b"POST /v1/packet HTTP/1.1\r\nHost: x\r\nContent-Length: 64\r\n\r\n"
    with socket.socket(type=socket.SOCK_DGRAM) as udp:
        for size in [0, 1, 2, 3, 1200, 1201, 60000, *(rng.randrange(1, 1200) for _ in range(500))]:
            udp.sendto(rng.randbytes(size), swarm)
            udp.sendto(
                bytes([0x90 | rng.randrange(16), rng.randrange(12)]) + rng.randbytes(9), swarm
            )
    for address in (swarm, api):
        for attempt in range(40):
            start = [b"", request, b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02"][attempt % 4]
            with socket.create_connection(address, timeout=PATIENCE) as tcp:
                tcp.sendall(start + rng.randbytes(rng.randrange(1, 5000)))
    before = a.status()
    a.reaches("exchanges", before["exchanges"] + 3)
    a.goes_on()
    assert b.status()["id"] in {peer["id"] for peer in before["peers"]}
    assert "Traceback" not in a.said
    assert "Error" not in a.said


def test_a_seed_that_does_not_answer_is_named_and_training_goes_on(pair: tuple[Node, Node]) -> None:
    _, b = pair
    b.says("no answer from 127.0.0.1:")
    assert "still trying" in b.said
    b.goes_on()


def test_a_state_dir_and_ports_in_use_are_refused_with_a_remedy(
    pair: tuple[Node, Node], tmp_path: Path
) -> None:
    a, _ = pair
    target = f"{a.state_dir.parent / 'line.py'}:learner"
    for arguments, parts in (
        (["--listen", a.address], [a.address, "another --listen"]),
        (["--api", a.api["address"]], [a.api["address"], "in use", "another --api"]),
        (["--state-dir", a.state_dir], [str(a.state_dir), str(a.process.pid), "another"]),
    ):
        result = here("run", target, "--seconds", 0, "--state-dir", tmp_path / "new", *arguments)
        assert (result.exit_code, result.stdout) == (3, "")
        one_line(result.stderr, *parts)
    assert a.status()
    assert not (tmp_path / "new" / "api.json").exists()


# how a node ends ----------------------------------------------------------------------------------


def test_signals_say_goodbye_save_and_print_one_object(start: Start, tmp_path: Path) -> None:
    a = start("a")
    b = start("b", "--join", a.address)
    c = start("c", "--join", a.address)
    a.reaches("peers", 2)
    a.reaches("exchanges", 3)
    for node, number, expected in ((b, signal.SIGINT, 130), (c, signal.SIGTERM, 0)):
        node.reaches("exchanges", 1)
        me = node.status()["id"]
        code, out = node.ends(number)
        assert code == expected
        (line,) = out.splitlines()
        assert json.loads(line)["id"] == me
        assert json.loads(line)["samples"] > 0
        assert "Traceback" not in node.said
        assert (node.state_dir / "checkpoint.safetensors").exists()
        assert not (node.state_dir / "api.json").exists()
        a.says(f"lost {me[:8]} at")
        (lost,) = [line for line in a.said.splitlines() if line.startswith(f"lost {me[:8]}")]
        assert "left" in lost
    gone = gossip("status", "--state-dir", b.state_dir)
    assert gone.returncode == 4
    one_line(gone.stderr, str(b.state_dir), "gossip run TARGET --state-dir")


def test_the_first_interrupt_waits_for_the_round_under_way(start: Start) -> None:
    a = start("a", "--option", "pause=1.0")
    a.says("is up")
    code, out = a.ends(signal.SIGINT)
    assert code == 130
    assert json.loads(out)["samples"] > 0
    assert (a.state_dir / "checkpoint.safetensors").exists()


def test_a_second_interrupt_waits_no_longer_and_loses_nothing(start: Start) -> None:
    a = start("a", "--option", "pause=600")
    a.says("is up")
    a.process.send_signal(signal.SIGINT)
    a.says("stopping")
    assert a.ends(signal.SIGINT) == (130, "")
    assert "Traceback" not in a.said
    assert a.said.splitlines()[-1] == "left in the middle of a round; what was synced is saved"
    assert (a.state_dir / "checkpoint.safetensors").exists()


def test_an_interrupt_before_the_node_is_up_ends_it_at_once(start: Start, tmp_path: Path) -> None:
    a = start("a", target=f"{tmp_path / 'line.py'}:stuck")
    b = start("b", target=f"{tmp_path / 'line.py'}:stuck")
    a.says("importing")
    assert a.ends(signal.SIGINT) == (130, "")
    assert a.said.splitlines() == ["importing", "gossip: interrupted before the node was up"]
    b.says("importing")
    assert b.ends(signal.SIGTERM) == (-signal.SIGTERM, "")
    assert b.said.splitlines() == ["importing"]


def test_training_that_fails_ends_the_node_with_what_happened(start: Start) -> None:
    a = start("a", "--option", "nan_after=3")
    code, out = a.ends()
    assert (code, out) == (1, "")
    assert "Traceback" not in a.said
    assert "'weight' contain NaN" in a.said.splitlines()[-1]
    assert str(a.state_dir) in a.said.splitlines()[-1]


# what a node keeps --------------------------------------------------------------------------------


def test_a_node_goes_on_where_it_was_even_if_its_last_checkpoint_is_damaged(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    a = start("a")
    a.reaches("samples", 1)
    ended = json.loads(a.ends(signal.SIGTERM)[1])
    newest = a.state_dir / "checkpoint.safetensors"
    again = ["run", f"{tmp_path / 'line.py'}:learner", "--seconds", 0, "--json"]
    again += ["--state-dir", a.state_dir]

    def resumes() -> None:
        result = here(*again)
        assert result.exit_code == 0
        status = json.loads(result.stdout)
        assert status["id"] == ended["id"]
        more = status["samples"] - ended["samples"]
        assert 0 <= more <= ROUND, "at most the round that was under way when time was up"

    resumes()
    newest.write_bytes(b"rotten")
    resumes()
    assert str(newest) in caplog.text, "a warning names the damaged file"
    other = here(*again, "--option", "width=5")
    assert other.exit_code == 3
    one_line(other.stderr, "another layout", "another --state-dir")
    for path in a.state_dir.glob("checkpoint*"):
        path.write_bytes(b"rotten")
    nothing_left = here(*again)
    assert (nothing_left.exit_code, nothing_left.stdout) == (3, "")
    one_line(nothing_left.stderr, str(newest), "Move them away")


def test_no_time_at_all_is_a_whole_life(start: Start, tmp_path: Path) -> None:
    start("unused").kill()  # for line.py
    result = here("run", f"{tmp_path / 'line.py'}:learner", "--seconds", 0, "--json")
    assert result.exit_code == 0
    status = json.loads(result.stdout)
    assert status["samples"] <= ROUND
    assert status["metrics"]["accuracy"] >= 0


def test_metrics_that_are_not_finite_are_null_in_json(tmp_path: Path) -> None:
    text = "\n    made.evaluate = lambda: {'loss': float('nan'), 'n': torch.ones(())}\n"
    (tmp_path / "line.py").write_text(
        LINE.replace("\n    return made\n", f"{text}    return made\n")
    )
    result = here("run", f"{tmp_path / 'line.py'}:learner", "--seconds", 0, "--json")
    assert json.loads(result.stdout)["metrics"] == {"loss": None, "n": 1.0}


def limit_file_size() -> None:
    import resource  # in the child: files may not grow, as on a disk that is full

    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


def test_a_full_disk_is_reported_and_learning_goes_on(start: Start, tmp_path: Path) -> None:
    often = tmp_path / "often.toml"
    often.write_text("checkpoint_every = 0.2\n")
    a = start("a", "--config", often, "--option", "width=4000", preexec_fn=limit_file_size)
    a.says("no checkpoint written to")
    assert "learning goes on" in a.said
    for _ in range(20):  # rounds, in which it tries again
        a.goes_on()
    assert a.said.count("no checkpoint written to") == 1
    assert a.status()["saved"] == {"seconds_ago": None, "trouble": "File too large"}
    code, out = a.ends(signal.SIGTERM)
    assert code == 0
    assert json.loads(out)["samples"] > 0
    assert "Traceback" not in a.said


# several nodes ------------------------------------------------------------------------------------


def test_two_models_that_differ_are_refused_by_name_and_both_keep_running(start: Start) -> None:
    a = start("a", "--option", "model=mlp", target=DIGITS)
    b = start("b", "--option", "model=cnn", "--join", a.address, target=DIGITS)
    for node, other in ((a, b), (b, a)):
        node.says(f"not exchanging with {other.status()['id'][:8]}")
        (line, *more) = [line for line in node.said.splitlines() if "its model differs" in line]
        assert not more, "said once"
        assert "1.weight" in line
    for node in (a, b):
        node.goes_on()
        assert node.status()["exchanges"] == 0


def accuracy(node: Node) -> float:
    return float(node.status()["metrics"].get("accuracy", 0))


@pytest.mark.slow
def test_a_node_that_is_killed_comes_back_as_the_same_and_catches_up(
    start: Start, tmp_path: Path
) -> None:
    often = tmp_path / "often.toml"
    often.write_text("checkpoint_every = 0.5\nevaluate_every = 0.5\n")

    def node(index: int, *arguments: object) -> Node:
        skewed = ["--option", "split=shards", "--option", "classes=4", "--config", often]
        return start(f"n{index}", "--shard", f"{index}/3", *skewed, *arguments, target=DIGITS)

    a = node(0)
    seed = a.address
    b, c = node(1, "--join", seed), node(2, "--join", seed)
    others = (a, c)
    b.reaches("exchanges", 20)
    checkpoint = b.state_dir / "checkpoint.safetensors"
    eventually("a checkpoint", checkpoint.exists)
    before = b.status()
    b.kill()
    for other in others:
        other.says(f"lost {before['id'][:8]}")
    b = node(1, "--join", seed)
    first = b.status()
    assert first["id"] == before["id"]
    assert first["samples"] > 0, "resumed from the checkpoint"
    b.reaches("exchanges", 20)
    for other in others:
        other.says(f"linked with {before['id'][:8]}", times=2 if other is a else 1)

    def good() -> bool:
        return min(map(accuracy, (a, b, c))) > 0.85 and abs(accuracy(b) - accuracy(a)) <= 0.02

    eventually("all of them are good", good)
    for each in (a, b, c):
        assert each.ends(signal.SIGTERM)[0] == 0


def test_the_demo_prints_one_object_and_leaves_nothing_behind(tmp_path: Path) -> None:
    result = gossip("demo", "--nodes", 2, "--seconds", 3, "--json", TMPDIR=str(tmp_path))
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert len(found["nodes"]) == 2
    for node in found["nodes"]:
        assert node["exchanges"] > 0
        assert node["accuracy_alone"] < 0.6 < node["accuracy"], "each knows half of the digits"
        assert 0 < node["bytes_sent"] < node["bytes_dense"]
    worst, mean = found["accuracy_min"], found["accuracy_mean"]
    assert found["accuracy_alone_mean"] < worst <= mean <= 1
    assert found["bytes_ratio"] > 1
    assert list(tmp_path.glob("gossip-demo-*")) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_stopped_leaves_no_node_behind(tmp_path: Path, number: int) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "gossip", "demo", "--nodes", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT | {"TMPDIR": str(tmp_path)},
    )
    try:
        (api,) = eventually("a node", lambda: list(tmp_path.glob("*/node0/api.json")))
        node = json.loads(api.read_text())["pid"]
        demo.send_signal(number)
        out, err = demo.communicate(timeout=PATIENCE)
    finally:
        demo.kill()
        demo.communicate()
    assert (demo.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "gossip: interrupted; all nodes are stopped"
    with pytest.raises(ProcessLookupError):
        os.kill(node, 0)
    assert list(tmp_path.glob("gossip-demo-*")) == []
