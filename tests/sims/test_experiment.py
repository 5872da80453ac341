from pathlib import Path

import pytest

from gossip.errors import ConfigError
from sims.experiment import as_toml, check, read
from sims.stage import Stage, stage
from tests.daemons import LINE

TOML = """
nodes = 6
seconds = 9
round_seconds = 0.5
options = { split = "iid", steps = 1 }

[network]
latency = [0.02, 0.2]
links = "lognormal"
loss = 0.05

[[devices]]
share = 0.5
slowdown = 3
up = 5e4
nat = true

[[events]]
kind = "crash"
at = 4
until = 7
share = 0.5
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "exp.toml"
    path.write_text(TOML)
    return path


def test_a_description_survives_being_written_and_read(file: Path, tmp_path: Path) -> None:
    experiment = read(str(file), {}, {})
    again = tmp_path / "again.toml"
    again.write_text(as_toml(experiment))
    assert read(str(again), {}, {}) == experiment


def test_the_command_line_has_the_last_word(file: Path) -> None:
    experiment = read(str(file), {"seed": 3}, {"network.loss": "0.1", "algorithm": "choco"})
    assert (experiment.seed, experiment.network.loss) == (3, 0.1)
    assert experiment.algorithm == "choco"
    assert experiment.network.latency == (0.02, 0.2)


def test_files_are_seen_from_the_description(file: Path) -> None:
    file.write_text('learner = "train.py:learner"\n[churn]\nkind = "trace"\ntrace = "t.csv"\n')
    experiment = read(str(file), {}, {})
    assert experiment.learner == f"{file.parent / 'train.py'}:learner"
    assert experiment.churn.trace == file.parent / "t.csv"


def test_all_that_is_wrong_with_a_description_is_said_at_once() -> None:
    table = {
        "nodse": 5,
        "seconds": -1,
        "network": {"los": 0.1, "loss": 2},
        "events": [{"kind": "crash", "at": 5, "until": 2, "shares": 1}],
    }
    with pytest.raises(ConfigError) as caught:
        check(table, {}, "exp.toml")
    for text in (
        "there is no setting nodse, did you mean nodes?",
        "there is no setting network.los, did you mean network.loss?",
        "there is no setting events.0.shares, did you mean events.0.share?",
        "loss is a share from 0 to below 1, not 2",
        "not from 5.0 to 2.0",
    ):
        assert text in str(caught.value)


def test_all_that_cannot_be_done_is_said_before_the_work_starts(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("0,5,up\n0,6,up\n")
    changes = {
        "nodes": 1500,
        "topology.kind": "regular",
        "topology.degree": 1501,
        "churn.kind": "trace",
        "churn.trace": str(trace),
        "settings.gama": 1,
    }
    with pytest.raises(ConfigError) as caught:
        Stage(read("steady", changes, {}))
    for text in (
        "no graph of 1500 nodes has 1501 links",
        "node 0 is up already since line 1",
        "shared-reference has no setting gama",
        "1433 samples cannot fill 1500 shards",
    ):
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("share", "until", "starts"), [(1.0, 99.0, False), (1.0, 8.0, True), (0.7, 99.0, True)]
)
def test_a_run_at_whose_end_nobody_honest_is_up_does_not_start(
    tmp_path: Path, share: float, until: float, starts: bool
) -> None:
    file = tmp_path / "exp.toml"
    file.write_text(
        'nodes = 10\nseconds = 9\nattack = "noise"\nattackers = 0.2\n'
        f'[[events]]\nkind = "crash"\nat = 4.0\nuntil = {until}\nshare = {share}\n'
    )
    described = read(str(file), {}, {})
    if starts:
        Stage(described)
        return
    with pytest.raises(ConfigError, match="nobody honest is up at 9 s"):
        Stage(described)


def test_memory_that_is_not_there_is_foreseen(tmp_path: Path) -> None:
    (tmp_path / "line.py").write_text(LINE)
    changes = {"nodes": 60_000, "learner": f"{tmp_path / 'line.py'}:learner"}
    wide = read("steady", changes, {"options.width": "200_000"})
    with pytest.raises(ConfigError, match=r"60,000 nodes of 400,002 parameters .* TB, and"):
        Stage(wide)


def test_the_same_description_gives_the_same_run_and_devices_differ(file: Path) -> None:
    experiment = read(str(file), {}, {})
    runs = []
    for seed in (0, 0, 1):
        simulation = stage(experiment.with_seed(seed))
        simulation.run(9 - simulation.now)
        runs.append(simulation)
    assert runs[0].network.trace == runs[1].network.trace != runs[2].network.trace
    slow = [node.rounds for node in runs[0].nodes if node.slowdown == 3]
    fast = [node.rounds for node in runs[0].nodes if node.slowdown == 1]
    assert len(slow) == len(fast) == 3
    assert max(slow) < min(fast)
    assert [up for _, node, up in runs[0].lives if node == 0] == [True, False, True]
    assert len(runs[0].live) == 6
