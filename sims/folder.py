"""I/O: a run as a folder that says everything about it.

    experiment.toml     the description, with every default
    run.json            state, report, versions, machine
    metrics.csv .jsonl  one row a look (`sims.recorder.Row`)
    nodes.csv           one row a node and look
    events.jsonl        nodes and links that came and went
    graph.jsonl         who was linked with whom, whenever that had changed
    models/             the model of each node at the end (safetensors)
    figures/            SVG for reading, PDF for print
    report.html         all of it to look at, in one file

All but run.json, where the hours are, is the same to the byte for the same description on the same
machine.
"""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from pathlib import Path
from typing import Any

from gossip.errors import ConfigError
from sims.experiment import Experiment, as_toml, check

DESCRIPTION, STATE = "experiment.toml", "run.json"
PACKAGES = ("gossip-learning", "torch", "numpy", "matplotlib", "networkx", "scikit-learn")
FINISHED, INTERRUPTED, RUNNING, FAILED = "finished", "interrupted", "running", "failed"


@dataclass(frozen=True, slots=True)
class Folder:
    """Where a run is written."""

    path: Path

    @classmethod
    def new(cls, path: Path, experiment: Experiment) -> Folder:
        """Begin one. Raises ConfigError where there is something else already."""
        folder = cls(path)
        if path.exists() and not path.is_dir():
            raise ConfigError(f"{path} is a file: give another --out")
        if path.is_dir() and any(path.iterdir()):
            if not (path / STATE).is_file():
                raise ConfigError(f"{path} holds something that is no run: give another --out")
            if folder.experiment() != experiment:
                raise ConfigError(f"{path} holds another experiment: give another --out")
            if folder.state()["state"] == FINISHED:
                raise ConfigError(
                    f"{path} holds this run already, finished: gossip-sim compare {path} shows it"
                )
        path.mkdir(parents=True, exist_ok=True)
        folder.write(DESCRIPTION, as_toml(experiment))
        return folder

    def experiment(self) -> Experiment:
        """The description. Raises ConfigError."""
        return check(self.table(), {}, str(self.path / DESCRIPTION))

    def table(self) -> dict[str, Any]:
        """The description as plain values, unchecked. Raises ConfigError."""
        self.state()
        path = self.path / DESCRIPTION
        try:
            return tomllib.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read {path}: {error}") from None

    def state(self) -> dict[str, Any]:
        """What run.json says. Raises ConfigError."""
        try:
            found: dict[str, Any] = json.loads((self.path / STATE).read_text())
            found["state"]
        except (OSError, ValueError, KeyError, TypeError):
            raise ConfigError(
                f"{self.path} is no run: gossip-sim run ... --out {self.path} makes one"
            ) from None
        return found

    def say(self, state: str, **more: object) -> None:
        """Write run.json."""
        content = {"state": state, "versions": versions(), "machine": machine(), **more}
        self.write(STATE, json.dumps(finite(content), indent=2) + "\n")

    def write(self, name: str, content: str | bytes) -> None:
        """A file of the folder, completely or not at all."""
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        fresh = path.with_name(f".{path.name}.new")
        fresh.write_bytes(content.encode() if isinstance(content, str) else content)
        fresh.replace(path)

    def write_rows(self, name: str, rows: Sequence[Any]) -> None:
        """Dataclasses as CSV."""
        text = io.StringIO()
        if rows:
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(asdict(rows[0]))
            for row in rows:
                writer.writerow(map(_cell, asdict(row).values()))
        self.write(name, text.getvalue())

    def write_lines(self, name: str, values: Iterable[object]) -> None:
        """Values as JSON lines."""
        self.write(name, "".join(json.dumps(finite(value)) + "\n" for value in values))

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl. Raises ConfigError where there are none yet."""
        try:
            text = (self.path / "metrics.jsonl").read_text()
        except FileNotFoundError:
            raise ConfigError(
                f"{self.path} has no metrics.jsonl: its run has not ended; run it again"
            ) from None
        return [json.loads(line) for line in text.splitlines()]


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return int(value)
    return f"{value:.9g}" if isinstance(value, float) else value


def finite(value: Any) -> Any:
    """The same with null for numbers that JSON does not have."""
    match value:
        case dict():
            return {key: finite(each) for key, each in value.items()}
        case list() | tuple():
            return [finite(each) for each in value]
        case float() if not isfinite(value):
            return None
    return value


def versions() -> dict[str, str]:
    """Of what a run depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, object]:
    """Where a run was made."""
    return {
        "system": platform.platform(terse=True),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
    }
