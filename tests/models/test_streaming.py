"""A learner trains on more data than it may hold, where memory is really limited."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.daemons import ROOT

ROWS, COLUMNS = 150_000, 40
SPARE = 36 << 20  # bytes beyond what the process has when all is loaded; each file holds more

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS as Linux has it")

# What is counted is virtual memory, so everything is loaded, and has run once, before the limit.
SCRIPT = """
import resource, sys
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset
from gossip.learner import TorchLearner
from models.data import tables
from models.data.stream import Stream

way, small, large, spare = *sys.argv[1:4], int(sys.argv[4])

def sample(row):
    numbers = [float(value) for value in row.values()]
    return torch.tensor(numbers[1:]), int(numbers[0])

class Rows(IterableDataset):
    def __init__(self, place):
        self.place = place
    def __iter__(self):
        return map(sample, tables.rows(self.place))

def learner(place, steps):
    if way == "dataset":
        batches = DataLoader(Rows(place), batch_size=32)
    else:
        order = torch.Generator().manual_seed(0)
        batches = Stream(lambda: tables.rows(place), sample, 32, order, buffer=256)
    width = len(next(tables.rows(place))) - 1
    return TorchLearner(nn.Linear(width, 2), batches, nn.functional.cross_entropy, steps=steps)

learner(small, 2).train()
if way == "whole":
    len(tables.whole(small))
status = dict(line.split(":") for line in open("/proc/self/status"))
limit = 1024 * int(status["VmSize"].split()[0]) + spare
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
if way == "whole":
    print(len(tables.whole(large)))
else:
    print(learner(large, -(-ROWS // 32)).train())
""".replace("ROWS", str(ROWS))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables, large and small, as CSV and as Parquet in one row group and in many."""
    home = tmp_path_factory.mktemp("tables")
    values = np.random.default_rng(0).standard_normal((ROWS, COLUMNS)).round(6)
    values[:, 0] = values[:, 1] > 0
    names = [f"c{number}" for number in range(COLUMNS)]
    for size, rows in (("small", values[:200]), ("large", values)):
        np.savetxt(home / f"{size}.csv", rows, "%.6f", ",", header=",".join(names), comments="")
        pa = pytest.importorskip("pyarrow")
        table = pa.table(dict(zip(names, rows.T, strict=True)))
        for kind, group in (("one", ROWS), ("many", 10_000)):
            pytest.importorskip("pyarrow.parquet").write_table(
                table, home / f"{size}-{kind}.parquet", row_group_size=group,
                use_dictionary=False, data_page_size=1 << 18,
            )  # fmt: skip
    return home


def trained(files: Path, way: str, name: str) -> subprocess.CompletedProcess[str]:
    small, large = (str(files / f"{size}{name}") for size in ("small", "large"))
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "ARROW_DEFAULT_MEMORY_POOL": "system",  # the others reserve a gigabyte to begin with
    }
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, way, small, large, str(SPARE)],
        capture_output=True, text=True, timeout=120, env=environment,
    )  # fmt: skip


@pytest.mark.parametrize("name", [".csv", "-one.parquet", "-many.parquet"])
@pytest.mark.parametrize("way", ["stream", "dataset"])
@pytest.mark.slow
def test_rows_pass_through_a_learner_that_could_not_hold_them(
    files: Path, way: str, name: str
) -> None:
    done = trained(files, way, name)
    assert done.stdout.split() == [str(ROWS)], done.stderr[-2000:]


@pytest.mark.slow
def test_the_limit_is_one_that_the_same_rows_at_once_do_not_keep(files: Path) -> None:
    done = trained(files, "whole", ".csv")
    assert done.returncode != 0
    assert "MemoryError" in done.stderr
