import json
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from sims import canvas, figures
from sims.cli import main
from sims.compare import Estimate, Run, load
from sims.folder import Folder
from sims.recorder import Row
from tests.daemons import LINE

# The learner of the other tests, without its pauses; it asks the process to stop once, at its
# thirtieth round, if there is a file called `flag` beside it.
INTERRUPTING = (
    LINE
    + """

import os, signal
from pathlib import Path

def interrupting(shard: int, seed: int):
    made, rounds, flag = learner(shard, seed, pause=0.0), 0, Path(__file__).parent / "flag"
    train = made.train

    def once() -> int:
        nonlocal rounds
        rounds += 1
        if rounds == 30 and flag.exists():
            flag.unlink()
            os.kill(os.getpid(), signal.SIGINT)
        return train()

    made.train = once
    return made
"""
)


def sim(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def target(tmp_path: Path) -> str:
    (tmp_path / "train.py").write_text(INTERRUPTING)
    return f"{tmp_path / 'train.py'}:interrupting"


def files(path: Path) -> dict[str, bytes]:
    found = sorted(file for file in path.rglob("*") if file.is_file() and file.name != "run.json")
    return {str(file.relative_to(path)): file.read_bytes() for file in found}


def test_a_run_is_a_folder_and_one_that_was_interrupted_comes_out_the_same(
    tmp_path: Path, target: str
) -> None:
    command = ["run", "churn", "--nodes", 4, "--seconds", 20, "--target", target]
    command += ["--set", "round_seconds=0.4", "--no-figures", "--out"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    result = sim(*command, whole)
    assert result.exit_code == 0, result.output
    (tmp_path / "flag").touch()
    result = sim(*command, cut)
    assert result.exit_code == 130, result.output
    assert "interrupted" in result.stderr
    state = Folder(cut).state()
    assert state["state"] == "interrupted"
    assert 0 < state["looked_at"] < 20
    assert Folder(cut).metrics() == Folder(whole).metrics()[: len(Folder(cut).metrics())]
    result = sim(*command, cut)
    assert result.exit_code == 0, result.output
    assert files(cut) == files(whole)
    assert sim(*command, cut).exit_code == 3  # it is finished now


def test_a_folder_says_what_happened(tmp_path: Path) -> None:
    out = tmp_path / "run"
    changes = ["--set", "options.steps=1", "--set", "round_seconds=0.5"]
    result = sim("run", "churn", "--nodes", 3, "--seconds", 22, *changes, "--out", out)
    assert result.exit_code == 0, result.output
    rows = Folder(out).metrics()
    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)
    assert rows[-1]["time"] == 22
    assert rows[-1]["up"] == 3
    assert min(row["up"] for row in rows) == 2
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert {"up", "down", "link up", "link down"} <= {event["event"] for event in events}
    assert (out / "nodes.csv").read_text().count("\n") == 1 + 3 * len(rows)
    assert len((out / "metrics.csv").read_text().splitlines()) == 1 + len(rows)
    models = sorted((out / "models").iterdir())
    assert [file.name for file in models] == [f"node-{n}.safetensors" for n in range(3)]
    assert {tensor.numel() for tensor in load_file(models[0]).values()} == {4096, 64, 640, 10}
    drawn = {file.stem for file in (out / "figures").iterdir()}
    assert {"accuracy", "consensus", "topology", "churn", "partition", "confusion"} <= drawn
    page = (out / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


def test_the_same_rows_are_drawn_to_the_same_bytes() -> None:
    numbers = {field.name: 0.5 for field in fields(Row)} | {"trace": ""}
    rows = [Row(**numbers | {"time": float(time)}) for time in range(3)]  # type: ignore[arg-type]
    for kind in ("svg", "pdf"):
        first, again = (canvas.save(canvas.draw(figures.loss, rows), kind) for _ in range(2))
        assert first == again


def test_a_replay_shows_one_node_and_finds_a_run_that_is_not_the_same(
    tmp_path: Path, target: str
) -> None:
    out = tmp_path / "run"
    command = ["run", "steady", "--nodes", 3, "--seconds", 6, "--target", target]
    assert sim(*command, "--no-figures", "--out", out).exit_code == 0
    result = sim("replay", out, "--until", 4, "--node", 2, "--json")
    assert result.exit_code == 0, result.output
    facts = [json.loads(line) for line in result.stdout.splitlines()]
    assert {fact["node"] for fact in facts} == {2}
    assert {"link up", "exchange"} <= {fact["event"] for fact in facts}
    assert max(fact["time"] for fact in facts) <= 4
    metrics = out / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"trace": "', '"trace": "0'))
    result = sim("replay", out)
    assert result.exit_code == 3
    assert "is not what" in result.stderr


def test_a_sweep_runs_every_cell_once_and_comparing_groups_the_seeds(
    tmp_path: Path, target: str
) -> None:
    file, out = tmp_path / "sweep.toml", tmp_path / "runs"
    file.write_text(
        f'experiment = "steady"\nseeds = 2\n[grid]\nalgorithm = ["isolated", "shared-reference"]\n'
        f'[[cells]]\nnodes = 3\nseconds = 3\nlearner = "{target}"\n'
    )
    result = sim("sweep", file, "--out", out, "--no-figures")
    assert result.exit_code == 0, result.output
    names = ["isolated-s0", "isolated-s1", "shared-reference-s0", "shared-reference-s1"]
    assert sorted(path.name for path in out.iterdir()) == names
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert "4 cells, 4 finished already" in sim("sweep", file, "--out", out).stderr
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    figure = tmp_path / "figure.svg"
    command = ["compare", *out.iterdir(), "--to", "accuracy=0.4", "--out", figure, "--json"]
    rows = json.loads(sim(*command).stdout)
    assert [(row["run"], row["seeds"]) for row in rows] == [
        ("isolated", 2),
        ("shared-reference", 2),
    ]
    assert all(row["accuracy"]["half"] is not None and row["bytes"] is not None for row in rows)
    assert figure.read_bytes().startswith(b"<?xml")


def test_a_sweep_says_everything_that_is_wrong_before_it_starts(tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text(
        'experiment = "steady"\n[grid]\ntopology.kind = ["ring", "rign"]\nnodes = [10, 1500]\n'
    )
    result = sim("sweep", file, "--out", tmp_path / "runs")
    assert result.exit_code == 3
    assert "rign-10-s0" in result.stderr
    assert "ring-1500-s0" in result.stderr
    assert "ring-10-s0" not in result.stderr
    assert not (tmp_path / "runs").exists()


def test_a_folder_of_something_else_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("data")
    result = sim("run", "steady", "--seconds", 1, "--out", tmp_path)
    assert result.exit_code == 3
    assert "holds something that is no run" in result.stderr


def run(levels: list[float]) -> Run:
    rows = [
        {"time": 10.0 * n, "bytes": 400 * n, "accuracy_mean": level}
        for n, level in enumerate(levels)
    ]
    return Run({"nodes": 4}, rows)


def test_what_it_takes_to_reach_a_goal_lies_between_two_looks() -> None:
    assert run([0.1, 0.5, 0.9]).cost("time", "accuracy", 0.6) == pytest.approx(12.5)
    assert run([0.1, 0.5, 0.9]).cost("bytes", "accuracy", 0.6) == pytest.approx(125)
    assert run([0.1, 0.5, 0.4]).cost("time", "accuracy", 0.6) is None
    assert run([0.7]).cost("time", "accuracy", 0.6) == 0


def test_an_interval_is_that_of_students_t_distribution() -> None:
    found = Estimate.of([1.0, 2.0, 3.0])
    assert (found.mean, found.half) == pytest.approx((2, 4.303 / 3**0.5), rel=1e-3)
    assert Estimate.of([1.0]).half is None


def test_what_is_no_run_cannot_be_compared(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no run"):
        load([tmp_path])
