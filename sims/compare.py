"""I/O: runs side by side: what they reach, and what it takes them to reach it.

Runs that differ in nothing but the seed are one row. Intervals are of Student's t distribution,
95 %; with one seed there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, nan, sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from gossip.errors import ConfigError
from sims.folder import FINISHED, Folder

ACROSS = {"time": "time", "bytes": "bytes", "exchanges": "exchanges", "rounds": "rounds"}
UP = {
    "accuracy": "accuracy_mean",
    "worst": "accuracy_min",
    "loss": "loss_mean",
    "consensus": "consensus_distance",
}
FALLING = ("loss", "consensus")
COSTS = ("bytes", "exchanges", "rounds", "time")
# The 97.5 % quantile of Student's t distribution for 1, 2, ... degrees of freedom.
T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160)
NORMAL = 1.96


@dataclass(frozen=True, slots=True)
class Run:
    """The metrics of a run."""

    experiment: dict[str, Any]
    rows: list[dict[str, Any]]

    def curve(self, name: str) -> list[float]:
        """One number a look; those that add up are per node."""
        column = UP.get(name, ACROSS.get(name, name))
        share = self.experiment["nodes"] if name in ("bytes", "exchanges", "rounds") else 1
        return [nan if row[column] is None else row[column] / share for row in self.rows]

    def cost(self, of: str, goal: str, value: float) -> float | None:
        """What it took until the curve of `goal` first got there, between two looks in proportion;
        None if it never did."""
        sign = -1 if goal in FALLING else 1
        curve, costs = self.curve(goal), self.curve(of)
        before = None
        for level, cost in zip(curve, costs, strict=True):
            if isfinite(level) and sign * level >= sign * value:
                if before is None or before[0] == level:
                    return cost
                share = (value - before[0]) / (level - before[0])
                return before[1] + share * (cost - before[1])
            before = (level, cost) if isfinite(level) else before
        return None


@dataclass(frozen=True, slots=True)
class Group:
    """The same experiment with several seeds."""

    label: str
    runs: list[Run]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds, and half its 95 % interval: None with one seed."""

    mean: float
    half: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """Of one number a seed."""
        if len(values) < 2:
            return cls(values[0], None)
        freedom = len(values) - 1
        quantile = T[freedom - 1] if freedom <= len(T) else NORMAL
        return cls(fmean(values), quantile * stdev(values) / sqrt(len(values)))


def load(paths: Sequence[Path]) -> tuple[list[Group], list[str]]:
    """The runs in those folders, grouped, and which were left out. Raises ConfigError."""
    runs: list[Run] = []
    left_out = []
    for path in paths:
        folder = Folder(path)
        if folder.state()["state"] != FINISHED:
            left_out.append(f"{path} is {folder.state()['state']}")
            continue
        runs.append(Run(folder.table(), folder.metrics()))
    if not runs:
        raise ConfigError(f"no finished run among {len(paths)}: {'; '.join(left_out)}")
    return _grouped(runs), left_out


def _grouped(runs: list[Run]) -> list[Group]:
    flat = [_flat(run.experiment) for run in runs]
    keys = sorted({key for each in flat for key in each} - {"seed"})
    differing = [key for key in keys if len({repr(each.get(key)) for each in flat}) > 1]
    groups: dict[str, list[Run]] = {}
    for run, each in zip(runs, flat, strict=True):
        label = ", ".join(str(each.get(key, "-")) for key in differing)
        groups.setdefault(label or str(run.experiment["algorithm"]), []).append(run)
    return [Group(label, found) for label, found in groups.items()]


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= (
            _flat(value, f"{prefix}{key}.")
            if isinstance(value, dict)
            else {f"{prefix}{key}": value}
        )
    return found


def table(groups: Sequence[Group], goal: str, value: float | None) -> list[dict[str, Any]]:
    """One row a group: its last figures, and what it took to get to `value`, if that is given."""
    rows = []
    for group in groups:
        ends = [run.curve(goal)[-1] for run in group.runs]
        row: dict[str, Any] = {
            "run": group.label,
            "seeds": len(group.runs),
            goal: Estimate.of(ends),
        }
        for cost in COSTS if value is not None else ():
            assert value is not None
            found = [run.cost(cost, goal, value) for run in group.runs]
            reached = [each for each in found if each is not None]
            row["reached"] = len(reached)
            row[cost] = Estimate.of(reached) if len(reached) == len(found) else None
        rows.append(row)
    return rows
