"""What `gossip-sim data` says of a division is what the nodes train on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from models import digits, logistic, tabular
from sims import data
from sims.cli import main


def test_it_counts_what_each_node_trains_on() -> None:
    found = data.counts([digits.learner(shard, 5, split="shards") for shard in range(5)])
    assert found.shape == (5, 10)
    assert ((found > 0).sum(axis=1) == 2).all()
    assert found.sum() == len(digits.learner().batches.targets)  # type: ignore[attr-defined]


def test_skew_is_0_for_equal_mixtures_and_grows_to_1() -> None:
    assert data.skew(np.array([[1, 2], [2, 4]])) == 0
    assert data.skew(np.eye(4, dtype=np.int64)) == pytest.approx(0.75)
    assert data.skew(np.eye(1000, dtype=np.int64)) > 0.99


def test_numbers_are_counted_in_ranges_of_as_many_each() -> None:
    found = data.counts([tabular.learner(data="diabetes")])
    assert found.shape == (1, data.RANGES)
    assert found.max() - found.min() <= 8


def test_the_command_prints_and_draws(tmp_path: Path) -> None:
    target = "models.digits:learner"
    arguments = ["data", target, "--nodes", "5", "--option", "split=dirichlet"]
    told = CliRunner().invoke(main, [*arguments, "--png", str(tmp_path / "d.png")])
    assert told.exit_code == 0, told.output
    assert "node 4" in told.output
    assert (tmp_path / "d.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)
    assert len(found["samples"]) == 5
    assert 0.2 < found["skew"] < 1


def test_a_learner_whose_data_cannot_be_counted_is_named() -> None:
    told = CliRunner().invoke(main, ["data", "models.logistic:learner", "--nodes", "2"])
    assert told.exit_code != 0
    assert f"{logistic.LogisticLearner.__name__} does not train on gossip.Batches" in told.stderr
