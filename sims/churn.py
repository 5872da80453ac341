"""Who goes and comes back when: drawn before the run, or read from a trace.

A plan is a list of changes that fit: nobody goes who is down, nobody comes who is up. So the same
plan can be played in virtual time and with processes.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from math import gamma, isfinite
from pathlib import Path
from random import Random
from typing import Literal

from gossip.errors import ConfigError

MOST_SHOWN = 5  # problems of a trace


@dataclass(frozen=True, slots=True, kw_only=True)
class ChurnConfig:
    """How nodes come and go."""

    kind: Literal["none", "strikes", "sessions", "trace"] = "none"
    """strikes: every `every` seconds a random node crashes and is back `down` seconds later.
    sessions: each node stays up and down for random times of the means `up` and `down`. trace:
    what a file says."""

    every: float = 5.0
    """Seconds between two strikes."""

    up: float = 60.0
    """Mean seconds of a session."""

    down: float = 8.0
    """Seconds, the mean for sessions, until a node is back, from its checkpoint."""

    shape: float = 1.0
    """Of the Weibull distribution of sessions: 1 is exponential, below that many are short and some
    very long (0.4 to 0.6 in peer-to-peer networks: Stutzbach, Rejaie, IMC 2006)."""

    quiet: float = 0.25
    """Share of the run at its end in which nobody goes, so that the figures at the end are of a
    swarm that is whole again. Not for traces."""

    trace: Path | None = None
    """CSV with the columns node, time (seconds), state (up or down); a node whose first row is
    "up" is not there before, all others start with the run."""

    def __post_init__(self) -> None:
        for name in ("every", "up", "down", "shape"):
            value = getattr(self, name)
            if not (isfinite(value) and value > 0):
                raise ValueError(f"{name} is a number above 0, not {value}")
        if not 0 <= self.quiet < 1:
            raise ValueError(f"quiet is a share from 0 to below 1, not {self.quiet}")
        if (self.trace is not None) != (self.kind == "trace"):
            raise ValueError(f'trace = "FILE" goes with kind = "trace", not with {self.kind!r}')


@dataclass(frozen=True, slots=True, order=True)
class Change:
    """A node comes or goes."""

    at: float
    node: int
    up: bool


def plan(config: ChurnConfig, nodes: int, seconds: float, seed: int) -> list[Change]:
    """All changes, in order. Raises ConfigError, with everything that is wrong with a trace."""
    end = (1 - config.quiet) * seconds
    match config.kind:
        case "none":
            return []
        case "strikes":
            return sorted(_strikes(config, nodes, end, Random(f"churn {seed}")))
        case "sessions":
            rngs = [Random(f"churn {seed}/{node}") for node in range(nodes)]
            return sorted(
                change
                for node, rng in enumerate(rngs)
                for change in _sessions(config, node, end, rng)
            )
    assert config.trace is not None
    return read_trace(config.trace, nodes, seconds)


def _strikes(config: ChurnConfig, nodes: int, end: float, rng: Random) -> Iterator[Change]:
    back: dict[int, float] = {}  # when those that are down come back
    at = config.every
    while at + config.down < end:
        live = [node for node in range(nodes) if back.get(node, 0.0) < at]
        if len(live) >= 2:
            node = rng.choice(live)
            back[node] = at + config.down
            yield Change(at, node, up=False)
            yield Change(at + config.down, node, up=True)
        at += config.every


def _sessions(config: ChurnConfig, node: int, end: float, rng: Random) -> Iterator[Change]:
    scale = config.up / gamma(1 + 1 / config.shape)
    at = rng.weibullvariate(scale, config.shape)
    while at < end:
        yield Change(at, node, up=False)
        at = min(end, at + rng.expovariate(1 / config.down))
        yield Change(at, node, up=True)
        at += rng.weibullvariate(scale, config.shape)


def read_trace(path: Path, nodes: int, seconds: float) -> list[Change]:
    """The changes in a file, those after the end of the run left out.

    Raises ConfigError: rows that cannot be read, or holes: a node that comes or goes twice.
    """
    try:
        with path.open(newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"cannot read the trace {path}: {error}") from None
    if rows and rows[0][:1] == ["node"]:
        rows[0] = []  # keeps the numbers of the lines
    problems: list[str] = []
    changes: list[tuple[Change, int]] = []
    for line, row in enumerate(rows, 1):
        if row:
            try:
                changes.append((_change(row, nodes), line))
            except ValueError as error:
                problems.append(f"line {line}: {error}")
    problems += _holes(changes)
    if problems:
        more = f"; and {len(problems) - MOST_SHOWN} more" if len(problems) > MOST_SHOWN else ""
        raise ConfigError(f"the trace {path}: {'; '.join(problems[:MOST_SHOWN])}{more}")
    return sorted(change for change, _ in changes if change.at < seconds)


def _change(row: list[str], nodes: int) -> Change:
    if len(row) != 3:
        raise ValueError(f"{','.join(row)!r} is not node,time,state")
    name, time, state = (cell.strip() for cell in row)
    if not name.isdecimal() or int(name) >= nodes:
        raise ValueError(f"node {name!r} is none of 0 to {nodes - 1}")
    try:
        at = float(time)
    except ValueError:
        at = -1.0
    if not (isfinite(at) and at >= 0):
        raise ValueError(f"time {time!r} is no number of seconds")
    if state not in ("up", "down"):
        raise ValueError(f"state {state!r} is neither up nor down")
    return Change(at, int(name), state == "up")


def _holes(changes: list[tuple[Change, int]]) -> list[str]:
    problems = []
    last: dict[int, tuple[Change, int]] = {}
    for change, line in sorted(changes):
        before = last.get(change.node)
        if before is not None and before[0].up == change.up:
            state, other = ("up", "down") if change.up else ("down", "up")
            problems.append(
                f"line {line}: node {change.node} is {state} already since line {before[1]}; a row "
                f"that says when it went {other} is missing"
            )
        last[change.node] = (change, line)
    return problems
