"""`gossip predict` and `gossip dashboard`, of a node that runs."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import numpy as np

from gossip.prediction_commands import _line
from tests.daemons import Start, here


def test_a_running_node_is_asked_and_shown(start: Start, tmp_path: Path) -> None:
    node = start("one")
    node.status()
    there = ("--state-dir", node.state_dir)
    (tmp_path / "two.json").write_text('{"inputs": [[1, 2, 3, 4], [0, 0, 0, 0]]}')
    np.save(tmp_path / "two.npy", np.array([[1, 2, 3, 4], [0, 0, 0, 0]], dtype=np.float32))
    for name in ("two.json", "two.npy"):
        done = here("predict", *there, tmp_path / name, "--json")
        found = json.loads(done.stdout)
        assert [len(prediction) for prediction in found["predictions"]] == [2, 2], name
        assert len(here("predict", *there, tmp_path / name).stdout.splitlines()) == 2
    (tmp_path / "odd.json").write_text('{"inputs": [[1]]}')
    done = here("predict", *there, tmp_path / "odd.json")
    assert (done.exit_code, done.stdout) == (3, "")
    assert "odd.json: an input cannot be read" in done.stderr
    done = here("predict", *there, tmp_path / "none.json")
    assert (done.exit_code, "cannot read" in done.stderr) == (3, True)

    url = here("dashboard", *there).stdout.strip()
    assert json.loads(here("dashboard", *there, "--json").stdout) == {"url": url}
    page, _, token = url.partition("#token=")
    assert token == node.api["token"]
    with urllib.request.urlopen(page) as answer:
        assert token not in answer.read().decode()


def test_without_a_node_they_say_what_to_do(tmp_path: Path) -> None:
    for command in (["dashboard"], ["predict", "x.json"]):
        (tmp_path / "x.json").write_text("{}")
        arguments = [tmp_path / one if one == "x.json" else one for one in command]
        done = here(*arguments, "--state-dir", tmp_path)
        assert done.exit_code == 4
        assert "no node runs" in done.stderr


def test_an_answer_with_a_label_is_one_line() -> None:
    assert _line({"label": "7", "probabilities": {"7": 0.913, "1": 0.05}}) == "7  91.3%"
    assert _line({"label": "\x1b[31m", "probabilities": {}}) == "?[31m"
    assert _line([0.5, 1.0]) == "[0.5, 1.0]"
