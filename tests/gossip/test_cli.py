"""The command line: what it refuses, what it loads, and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from click.testing import CliRunner, Result

from gossip.cli import main

ROOT = Path(__file__).parents[2]
LEARNER = "models.digits:learner"


def gossip(*arguments: object) -> Result:
    """Run a command in this process; what is not an exit code is a failure of the test."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result


def refused(code: int, *arguments: object) -> str:
    """The one line on stderr of a command that ends with that exit code."""
    result = gossip(*arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("gossip: ")
    return line


# what loads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["run", "--help"], 0),
        (["status", "--state-dir", "/nowhere"], 4),
        (["peers", "--state-dir", "/nowhere"], 4),
        (["events", "--state-dir", "/nowhere"], 4),
    ],
)
def test_what_does_not_train_does_not_load_pytorch(arguments: list[str], code: int) -> None:
    program = (
        "import sys\n"
        "from gossip.cli import main\n"
        "code = 0\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "except SystemExit as end:\n"
        "    code = end.code\n"
        "slow = {'torch', 'numpy', 'aiohttp', 'pydantic', 'rich'} & set(sys.modules)\n"
        "print(code, sorted(slow))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert result.stdout.splitlines()[-1] == f"{code} []", result.stderr


def test_the_module_is_the_command() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "gossip", "--help"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0
    assert result.stdout.startswith("Usage: gossip ")
    for command in ("run", "status", "peers", "demo"):
        assert f"  {command} " in result.stdout


# usage: 2 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["run"], "TARGET"),
        (["fly"], "fly"),
        (["run", LEARNER, "--shard", "3/2"], "'3/2' is not i/n"),
        (["run", LEARNER, "--shard", "2/2"], "'2/2' is not i/n"),
        (["run", LEARNER, "--shard", "0"], "'0' is not i/n"),
        (["run", LEARNER, "--option", "classes"], "'classes' is not NAME=VALUE"),
        (["run", LEARNER, "--option", "=3"], "'=3' is not NAME=VALUE"),
        (["run", LEARNER, "--seconds", "-1"], "-1"),
        (["run", LEARNER, "--seconds", "nan"], "'nan' is not a number of seconds"),
        (["run", LEARNER, "--seconds", "soon"], "'soon'"),
        (["run", LEARNER, "--seed", "x"], "'x'"),
        (["run", LEARNER, "--lissten", "127.0.0.1:0"], "--listen"),
        (["status"], "--state-dir DIR or --api H:P"),
        (["demo", "--nodes", "1"], "1 is not in the range"),
        (["demo", "--seconds", "nan"], "'nan' is not a number of seconds"),
    ],
)
def test_a_wrong_usage_is_code_2_and_says_what_is_wrong(arguments: list[str], part: str) -> None:
    result = gossip(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert part in result.stderr.splitlines()[-1]


# configuration and target: 3 ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--listen", "foo"], ["'foo' is not HOST:PORT", "listen"]),
        (["--join", "127.0.0.1:7946", "--join", "foo"], ["'foo' is not HOST:PORT", "join"]),
        (["--api", "127.0.0.1"], ["'127.0.0.1' is not HOST:PORT", "api"]),
        (
            ["--listen", "10.0.0.1:7946"],
            ["10.0.0.1:7946", "nothing is encrypted", "127.0.0.1:7946"],
        ),
        (
            ["--listen", "0.0.0.0:0"],
            ["0.0.0.0:0", "nothing is encrypted", "127.0.0.1:0"],
        ),
        (["--api", "10.0.0.1:0"], ["10.0.0.1:0", "127.0.0.1:0"]),
        (["--listen", "a..b:80"], ["a..b:80", "127.0.0.1:0"]),
        (["--listen", "nobody.invalid:80"], ["nobody.invalid:80", "127.0.0.1:0"]),
        (["--config", "/nowhere/node.toml"], ["/nowhere/node.toml", "No such file"]),
        (["--option", "clases=3"], ["clases", "did you mean classes"]),
        (["--state-dir", "/proc/none/node"], ["/proc/none/node", "another --state-dir"]),
    ],
)
def test_settings_that_make_no_sense_are_code_3_and_one_line(
    arguments: list[str], parts: list[str]
) -> None:
    line = refused(3, "run", LEARNER, "--seconds", 0, *arguments)
    for part in parts:
        assert part in line


def test_a_state_dir_that_cannot_be_one_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for path in (file, file / "below"):
        line = refused(3, "run", LEARNER, "--seconds", 0, "--state-dir", path)
        assert str(path) in line
        assert "another --state-dir" in line


def test_unknown_settings_are_guessed(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text("[swarm.links]\nmots = 3\n")
    line = refused(3, "run", LEARNER, "--config", config)
    assert (
        f"{config}: line 2: there is no setting swarm.links.mots, did you mean swarm.links.most?"
        in line
    )


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        ("nope", ["'nope'", "file.py:function"]),
        ("nope.py:learner", ["there is no file nope.py"]),
        ("models.digits:lerner", ["no function lerner", "did you mean learner?"]),
        ("models.digit:learner", ["no module models.digit"]),
    ],
)
def test_a_wrong_target_is_code_3_and_one_line(target: str, parts: list[str]) -> None:
    line = refused(3, "run", target, "--seconds", 0)
    for part in parts:
        assert part in line


# nobody there: 4 ----------------------------------------------------------------------------------


def test_status_of_a_node_that_is_not_there_says_how_to_start_one(tmp_path: Path) -> None:
    line = refused(4, "status", "--state-dir", tmp_path)
    assert str(tmp_path / "api.json") in line
    assert f"gossip run TARGET --state-dir {tmp_path}" in line


def test_status_of_a_node_that_was_killed_says_that_nobody_answers(tmp_path: Path) -> None:
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)  # takes a port that is free
    address = f"127.0.0.1:{server.server_port}"
    server.server_close()
    (tmp_path / "api.json").write_text(json.dumps({"address": address, "token": "t", "pid": 1}))
    line = refused(4, "status", "--state-dir", tmp_path)
    assert address in line
    assert "refused" in line
    assert "still running?" in line


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"address": "127.0.0.1:1"}', "\x00"]
)
def test_a_broken_api_json_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "api.json").write_text(text)
    line = refused(4, "status", "--state-dir", tmp_path)
    assert str(tmp_path / "api.json") in line
    assert "start the node again" in line


@pytest.mark.parametrize("address", ["127.0.0.1:x", "nobody.invalid:1", "a b:1", "127.0.0.1:99999"])
def test_an_address_that_is_none_is_named(address: str) -> None:
    assert address in refused(4, "status", "--api", address)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 OK\r\n\r\n[1, 2]",
        b"HTTP/1.0 200 OK\r\n\r\n{}",
        b"HTTP/1.0 200 OK\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\n{}",
        b"HTTP/1.0 404 Not Found\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"",
    ],
)
def test_something_else_that_answers_is_told_from_a_node(answer: bytes) -> None:
    class Other(BaseHTTPRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            self.wfile.write(answer)

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        thread = Thread(target=server.handle_request)
        thread.start()
        address = f"127.0.0.1:{server.server_port}"
        line = refused(4, "status", "--api", address)
        thread.join()
    assert address in line
