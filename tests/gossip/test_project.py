"""`gossip new`: what it writes runs, and nothing is written over."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from gossip import project
from gossip.config import check
from tests.daemons import gossip, here, listening

README = Path(__file__).parents[2] / "README.md"
FILES = ["train.py", "node.toml", "README.md"]


def test_the_learner_is_the_one_the_readme_shows() -> None:
    assert f"```python\n{project.TRAIN}```" in README.read_text()


def test_a_new_project_trains_and_tells_systemd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, command = here("new", "mine").stdout.splitlines()
    assert first == "cd mine"
    monkeypatch.chdir("mine")
    systemd = str(tmp_path / "systemd")
    with listening(systemd) as receiver:
        run = [*command.split()[1:], "--seconds", 1, "--json"]
        done = gossip(*run, NOTIFY_SOCKET=systemd)
        assert done.returncode == 0, done.stderr
        assert [receiver.recv(100) for _ in range(2)] == [b"READY=1", b"STOPPING=1"]
    status = json.loads(done.stdout)
    assert status["samples"] > 0
    assert Path("node").is_dir()


def test_all_settings_that_are_proposed_are_settings() -> None:
    told = re.sub(r"^# (\w+ = )", r"\1", project.NODE, flags=re.MULTILINE)
    table = tomllib.loads(told)
    assert {"state_dir", "network_key", "listen", "join", "seed"} <= set(table)
    assert set(table["agent"]) == {"budget", "merge"}
    check(table, "node.toml")


def test_it_never_writes_over_anything(tmp_path: Path) -> None:
    made = json.loads(here("new", tmp_path / "a", "--json").stdout)["files"]
    assert made == [str(tmp_path / "a" / name) for name in FILES]
    for name in FILES:
        home = tmp_path / name.partition(".")[0]
        home.mkdir()
        (home / name).write_text("mine")
        done = here("new", home)
        assert (done.exit_code, done.stdout) == (3, "")
        assert f"{home / name} is there already" in done.stderr
        assert [entry.name for entry in home.iterdir()] == [name]
        assert (home / name).read_text() == "mine"


def test_where_it_cannot_write_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = here("new", tmp_path / "file" / "inside")
    assert done.exit_code == 3
    assert "Not a directory" in done.stderr
    done = here("new", tmp_path / "file")
    assert done.exit_code == 3
    assert "is there already" in done.stderr
