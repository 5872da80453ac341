"""`gossip service install`, and what a node tells systemd."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gossip import notify
from tests.daemons import here, listening

VERIFY = shutil.which("systemd-analyze")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project, and where a user's units and state go."""
    home = tmp_path / 'a "100%" $HOME'
    home.mkdir()
    (home / "train.py").write_text("")
    (home / "node.toml").write_text("")
    monkeypatch.chdir(home)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state of it"))
    return home


INSTALL = ("service", "install", "train.py:learner", "--config", "node.toml")


@pytest.mark.skipif(VERIFY is None, reason="there is no systemd-analyze")
@pytest.mark.parametrize("more", [[], ["--user"]], ids=["system", "user"])
def test_systemd_understands_the_unit(
    home: Path, tmp_path: Path, more: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    unit = tmp_path / "gossip.service"
    unit.write_text(here(*INSTALL, *more, "--print").stdout)
    done = subprocess.run(
        [str(VERIFY), *more, "verify", str(unit)], capture_output=True, text=True, timeout=30
    )
    about_it = [line for line in done.stderr.splitlines() if "gossip" in line]
    assert (done.returncode, about_it) == (0, []), done.stderr


def test_the_unit_runs_this_python_in_this_folder(home: Path, tmp_path: Path) -> None:
    text = here(*INSTALL, "--print").stdout
    lines = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    assert lines["Type"] == "notify"
    assert lines["User"] == home.owner()
    assert lines["WorkingDirectory"] == str(home).replace("%", "%%")
    assert lines["ExecStart"] == (
        f"{sys.executable} -m gossip run train.py:learner --config node.toml "
        "--state-dir /var/lib/gossip"
    )
    assert lines["StateDirectory"] == "gossip"
    assert lines["ExecReload"] == "/bin/kill -HUP $MAINPID"
    odd = ("service", "install", "models.digits:it", "--user", "--unit", "two", "--print", "--json")
    text = json.loads(here(*odd).stdout)["unit"]
    state = tmp_path / "state of it" / "two"
    assert f'run models.digits:it --state-dir "{state}"\n' in text
    assert "User=" not in text


def test_it_writes_a_unit_once_and_says_what_comes_next(home: Path, tmp_path: Path) -> None:
    done = here(*INSTALL, "--user", "--json")
    found = json.loads(done.stdout)
    path = tmp_path / "config" / "systemd" / "user" / "gossip.service"
    assert found["path"] == str(path)
    assert "systemctl --user enable --now gossip" in found["next"]
    assert path.read_text() == here(*INSTALL, "--user", "--print").stdout
    done = here(*INSTALL, "--user")
    assert (done.exit_code, done.stdout) == (3, "")
    assert f"{path} is there already" in done.stderr


def test_what_cannot_run_is_not_installed(home: Path, tmp_path: Path) -> None:
    for arguments, code, said in (
        (("none.py:learner",), 3, "there is no none.py"),
        (("train.py:learner", "--config", "none.toml"), 3, "there is no none.toml"),
        (("train.py:learner", "--unit", "../evil"), 2, "is not a name"),
        (("models.digits:learner\nUser=root",), 3, "systemd cannot be told of"),
    ):
        done = here("service", "install", *arguments, "--user")
        assert (done.exit_code, done.stdout) == (code, "")
        assert said in done.stderr
    assert not (tmp_path / "config").exists()


def test_who_was_not_started_by_systemd_tells_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify.tell("READY=1")
    assert caplog.text == ""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "none"))
    notify.tell("READY=1")
    assert "No such file" in caplog.text
    name = f"gossip-test-{os.getpid()}"
    with listening(f"\0{name}") as receiver:
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        notify.tell("READY=1")
        assert receiver.recv(100) == b"READY=1"
