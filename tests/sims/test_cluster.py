import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from sims.cli import main
from sims.folder import Folder


@pytest.mark.slow
def test_ray_makes_the_same_runs_as_this_machine(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed")
    file = tmp_path / "sweep.toml"
    file.write_text('experiment = "steady"\nseeds = 2\n[[cells]]\nnodes = 3\nseconds = 3\n')
    traces = []
    for engine in ("local", "ray"):
        out = tmp_path / engine
        command = ["sweep", str(file), "--out", str(out), "--engine", engine, "--no-figures"]
        result = CliRunner().invoke(main, [*command, "-j", "2"])
        assert result.exit_code == 0, result.output
        traces.append([Folder(out / f"s{seed}").state()["trace"] for seed in range(2)])
    assert traces[0] == traces[1]


@pytest.mark.slow
def test_training_on_ray_leaves_the_same_trace(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed")
    traces = []
    for engine in ("local", "ray"):
        command = ["run", "steady", "--nodes", "8", "--seconds", "6", "--json", "--engine", engine]
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 0, result.output
        traces.append(json.loads(result.stdout)["trace"])
    assert traces[0] == traces[1]
