"""I/O: many runs of one experiment, each in a folder of its own.

    experiment = "exp.toml"
    seeds = 3

    [grid]
    algorithm = ["shared-reference", "choco", "d-psgd"]
    topology.kind = ["overlay", "ring"]

Every combination of the grid runs with every seed. Instead, or besides, `[[cells]]` lists sets of
changes. What is finished is skipped, so a sweep that was interrupted goes on where it was. The
engine is this machine's processes, or Ray, where cells are tasks whose folders travel back.
"""

from __future__ import annotations

import re
import signal
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn

from gossip.config import read_table, settle
from gossip.errors import ConfigError, GossipError
from sims.experiment import Experiment, as_table, check, joined, read
from sims.folder import FINISHED, STATE, Folder
from sims.stage import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepConfig:
    """What a sweep file says."""

    experiment: str
    """FILE.toml, seen from the sweep, or steady, churn or partition."""

    seeds: int | tuple[int, ...] = 3
    """How many, from 0, or which."""

    grid: Mapping[str, Any] = field(default_factory=dict)
    """By name of a key, a list of values."""

    cells: tuple[dict[str, Any], ...] = ({},)
    """By name of a key, values; one set for each cell."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One run to be made."""

    name: str
    experiment: Experiment

    def done(self, out: Path) -> bool:
        """Whether it is there already. Raises ConfigError if something else is."""
        path = out / self.name
        if not (path / STATE).is_file():
            return False
        folder = Folder(path)
        if folder.experiment() != self.experiment:
            raise ConfigError(f"{path} holds another experiment: give another --out")
        return bool(folder.state()["state"] == FINISHED)


def plan(path: Path) -> list[Cell]:
    """The cells of a sweep. Raises ConfigError, with everything that is wrong with any of them."""
    sweep, problems = settle(read_table(path), SweepConfig)
    if sweep is None:
        raise ConfigError(f"{path}: {'; '.join(problems)}")
    what = sweep.experiment
    if what.endswith(".toml"):
        what = str(path.parent / what)
    found: dict[str, Cell] = {}
    for name, changes in _combinations(sweep):
        for seed in range(sweep.seeds) if isinstance(sweep.seeds, int) else sweep.seeds:
            cell = f"{name}-s{seed}" if name else f"s{seed}"
            try:
                experiment = read(what, changes | {"seed": seed}, {})
                Stage(experiment)
            except GossipError as error:
                problems.append(f"{cell}: {error}")
                break  # other seeds would say the same
            if cell in found:
                problems.append(f"two cells would be called {cell}: they differ in no value")
            found[cell] = Cell(cell, experiment)
    if problems:
        raise ConfigError(f"{path}: {joined(problems)}")
    return list(found.values())


def _combinations(sweep: SweepConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    grid = dict(_flat(sweep.grid))
    for name, values in grid.items():
        if not isinstance(values, list):
            raise ConfigError(f"grid.{name} is a list of values, not {values!r}")
    for cell in sweep.cells:
        for values in product(*grid.values()):
            changes = dict(_flat(cell)) | dict(zip(grid, values, strict=True))
            told = [*values, *(cell.values() if len(sweep.cells) > 1 else ())]
            yield "-".join(re.sub(r"[^\w.]+", "-", str(value)) for value in told), changes


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def sweep(
    cells: list[Cell], out: Path, jobs: int, engine: Callable[..., Any], *, figures: bool = True
) -> list[str]:
    """Run what is not finished yet; returns what went wrong, by cell."""
    waiting = deque(cell for cell in cells if not cell.done(out))
    console = Console(stderr=True)
    console.print(f"{len(cells)} cells, {len(cells) - len(waiting)} finished already")
    bar = Progress(
        *Progress.get_default_columns(), TimeElapsedColumn(), console=console, transient=True
    )
    failures = []
    running: dict[Future[None], Cell] = {}
    with bar, engine(jobs) as start:
        task = bar.add_task("cells", total=len(waiting))
        while waiting or running:
            while waiting and len(running) < jobs:  # no more, so that Ctrl-C finds none waiting
                cell = waiting.popleft()
                running[start(as_table(cell.experiment), out / cell.name, figures)] = cell
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                cell = running.pop(future)
                bar.advance(task)
                if error := future.exception():
                    failures.append(f"{cell.name}: {error}")
    return sorted(failures)


def run_cell(table: dict[str, Any], path: Path, figures: bool) -> None:
    """Run one experiment into a folder."""
    from sims.laboratory import conduct

    outcome = conduct(check(table, {}, str(path)), path, figures=figures, quiet=True)
    if not outcome.finished:
        raise ConfigError("interrupted; the same command goes on")


def pack_cell(table: dict[str, Any], figures: bool) -> dict[str, bytes]:
    """Run one experiment; its folder by name of file, for machines that share no disk."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "run"
        run_cell(table, path, figures)
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return {str(file.relative_to(path)): file.read_bytes() for file in files}


Start = Callable[[dict[str, Any], Path, bool], "Future[None]"]


@contextmanager
def processes(jobs: int) -> Iterator[Start]:
    """Cells as processes of this machine."""
    # Not forked: PyTorch's threads do not survive that. Ctrl-C reaches all: those that run
    # a cell end it in good order, those that wait for one are ended by us.
    pool = ProcessPoolExecutor(
        jobs,
        mp_context=get_context("spawn"),
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),
    )
    with pool:
        yield lambda *task: pool.submit(run_cell, *task)
