"""I/O: one description of a run, as TOML or by name, and everything that is wrong with it.

    nodes = 200
    seconds = 60
    learner = "models.digits:learner"
    options = { split = "dirichlet", alpha = 0.3 }

    [topology]
    kind = "torus"

    [churn]
    kind = "sessions"

Every key is a field of a dataclass here or of the part that it configures; what is not said keeps
its default. `steady`, `churn` and `partition` are such descriptions that come with the program.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any, Literal, get_args

from gossip.errors import ConfigError
from sims.churn import ChurnConfig
from sims.conditions import DeviceConfig, NetworkConfig
from sims.topology import TopologyConfig

Algorithm = Literal[
    "shared-reference",
    "isolated",
    "all-reduce",
    "d-psgd",
    "choco",
    "edge-choco",
    "ad-psgd",
    "el-local",
    "el-oracle",
    "push-sum",
    "noloco",
]
Attack = Literal["sign-flip", "noise", "label-flip", "replay", "little"]
ALGORITHMS: tuple[str, ...] = get_args(Algorithm)
ATTACKS: tuple[str, ...] = get_args(Attack)
PRESETS = ("steady", "churn", "partition")
DIGITS = "models.digits:learner"
MOST_NODES = 2**16

Scalar = bool | int | float | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """Something that is done to the swarm once."""

    kind: Literal["partition", "crash", "freeze"]
    """partition: the first nodes and the others cannot reach each other. crash: they all go at
    once, and come back from their checkpoints. freeze: they do nothing and notice nothing."""

    at: float
    """Virtual seconds."""

    until: float
    """Virtual seconds; beyond the end of the run for what does not end."""

    share: float = 0.5
    """Of the nodes, those of the lowest numbers, to whom it happens."""

    def __post_init__(self) -> None:
        if not 0 <= self.at < self.until:
            raise ValueError(
                f"it begins at 0 s or later and ends after that, not from {self.at} to {self.until}"
            )
        if not 0 < self.share <= 1:
            raise ValueError(f"share is above 0 and at most 1, not {self.share}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """A run, completely: the same description gives the same bytes."""

    nodes: int = 10
    """How many; 2 to 65,536."""

    seconds: float = 60.0
    """Virtual seconds that it lasts."""

    seed: int = 0
    """Everything is drawn from it."""

    learner: str = DIGITS
    """FILE.py:FUNCTION or MODULE:FUNCTION that makes the learner of a node, as for `gossip run`."""

    options: Mapping[str, Scalar] = field(default_factory=dict)
    """For it, by name: the split of the data, the learning rate."""

    algorithm: Algorithm = "shared-reference"
    """What the nodes run."""

    settings: Mapping[str, float] = field(default_factory=dict)
    """Of the algorithm: `density` and `bits` of ours, `gamma` of choco."""

    attack: Attack | None = None
    """What attackers do; see `sims.attacks`. None: everybody is honest."""

    attackers: float = 0.2
    """Share of the nodes that lie, if there is an attack."""

    join_over: float = 2.0
    """Virtual seconds in which the nodes start, at most half of the run."""

    round_seconds: float = 0.1
    """Virtual seconds that a round of training takes on a usual node. A guess: ten steps of a small
    model on a small device."""

    sample_every: float = 1.0
    """Virtual seconds between two looks at all nodes, which become rows of the metrics."""

    topology: TopologyConfig = field(default_factory=TopologyConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    devices: tuple[DeviceConfig, ...] = ()
    churn: ChurnConfig = field(default_factory=ChurnConfig)
    events: tuple[Happening, ...] = ()

    def __post_init__(self) -> None:
        if not 2 <= self.nodes <= MOST_NODES:
            raise ValueError(f"nodes is 2 to {MOST_NODES:,}, not {self.nodes}")
        for name, least in (("seconds", 1.0), ("round_seconds", 1e-4), ("sample_every", 0.01)):
            value = getattr(self, name)
            if not (isfinite(value) and value >= least):
                raise ValueError(f"{name} is at least {least:g}, not {value}")
        if not 0 <= self.attackers < 1:
            raise ValueError(f"attackers is a share from 0 to below 1, not {self.attackers}")
        if not 0 <= self.join_over < float("inf"):
            raise ValueError(f"join_over is 0 or more seconds, not {self.join_over}")

    @property
    def joining(self) -> float:
        """Virtual seconds until all nodes have started."""
        return min(self.join_over, self.seconds / 2)

    @property
    def texts(self) -> dict[str, str]:
        """The learner's options, as `gossip.target.build` takes them."""
        return {name: str(value) for name, value in self.options.items()}

    def with_seed(self, seed: int) -> Experiment:
        """The same with other luck."""
        return replace(self, seed=seed)


def preset(name: str, nodes: int, seconds: float) -> dict[str, Any]:
    """What the named experiment says; nodes see two of ten digits, more where two do not do."""
    table: dict[str, Any] = {
        "options": {"split": "shards", "classes": max(2, -(-10 // nodes))},
    }
    if name == "churn":  # a random node crashes every 5 s and is back 8 s later
        table["churn"] = {"kind": "strikes"}
    if name == "partition":  # two halves, in the second third of the time
        table["events"] = [{"kind": "partition", "at": seconds / 3, "until": 2 * seconds / 3}]
    return table


def read(what: str, changes: Mapping[str, Any], settings: Mapping[str, str]) -> Experiment:
    """The experiment in a file, or of that name, with everything in its place that is said besides.

    Args:
        changes: by dotted name, values.
        settings: by dotted name, texts: `--set`.

    Raises ConfigError, which says all that is wrong with the description.
    """
    from gossip.config import read_table  # here, not above: it imports PyTorch

    said: dict[str, Any] = dict(changes) | {key: _value(text) for key, text in settings.items()}
    if what in PRESETS:
        nodes, seconds = said.get("nodes", Experiment().nodes), said.get("seconds", 60.0)
        numbers = isinstance(nodes, int) and isinstance(seconds, int | float)
        table = preset(what, max(nodes, 1), float(seconds)) if numbers else {}
        if said.get("learner", DIGITS) != DIGITS:
            table.pop("options", None)  # they are of the digits
        return check(table, said, "the command line")
    if not what.endswith(".toml"):
        raise ConfigError(
            f"there is no experiment {what!r}: give a file that ends in .toml, or one of "
            f"{', '.join(PRESETS)}"
        )
    table = _beside(read_table(Path(what)), Path(what).parent)
    return check(table, said, f"{what} and the command line" if said else what)


def check(table: Mapping[str, Any], said: Mapping[str, Any], source: str) -> Experiment:
    """Make an Experiment. Raises ConfigError, which names `source`."""
    from gossip.config import settle

    experiment, problems = settle(merged(table, said), Experiment)
    if experiment is None:
        raise ConfigError(f"{source}: {'; '.join(problems)}")
    return experiment


def merged(table: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """The table with values by dotted name in their places. Raises ConfigError."""
    result = _copy(table)
    for name, value in said.items():
        *path, last = name.split(".")
        place: Any = result
        for step in path:
            place = place.setdefault(step, {})
            if not isinstance(place, dict):
                raise ConfigError(f"cannot set {name}: {step} is no table")
        if isinstance(value, dict) and isinstance(place.get(last), dict):
            place[last] = place[last] | value
        else:
            place[last] = value
    return result


def as_table(experiment: Experiment) -> dict[str, Any]:
    """The description as plain values, without what is None: what TOML and JSON can hold."""
    return _plain(asdict(experiment))  # type: ignore[no-any-return]


def as_toml(experiment: Experiment) -> str:
    """The description as TOML, with every default in it."""
    table = as_table(experiment)
    lines = [f"{key} = {_toml(value)}" for key, value in table.items() if not _is_table(value)]
    for key, value in table.items():
        for entry in value if isinstance(value, list) else [value]:
            if _is_table(value):
                head = f"[[{key}]]" if isinstance(value, list) else f"[{key}]"
                lines += ["", head, *(f"{name} = {_toml(each)}" for name, each in entry.items())]
    return "\n".join(lines) + "\n"


def _is_table(value: object) -> bool:
    several = isinstance(value, list) and bool(value) and isinstance(value[0], dict)
    return several or isinstance(value, dict)


def _toml(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return json.dumps(value, ensure_ascii=False)  # its escapes are among TOML's
        case list():
            return f"[{', '.join(map(_toml, value))}]"
    return str(value)


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {key: _plain(each) for key, each in value.items() if each is not None}
        case list() | tuple():
            return [_plain(each) for each in value]
        case Path():
            return str(value)
    return value


def _value(text: str) -> Any:
    """A value as TOML writes it; what is none is a text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _copy(table: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copy(v) if isinstance(v, dict) else v for k, v in table.items()}


def _beside(table: dict[str, Any], home: Path) -> dict[str, Any]:
    """Names of files in an experiment are seen from the experiment, unlike those on the command
    line."""
    for part, key in (("topology", "file"), ("churn", "trace")):
        inner = table.get(part)
        if isinstance(inner, dict) and isinstance(inner.get(key), str):
            inner[key] = str(home / inner[key])
    learner = table.get("learner")
    if isinstance(learner, str) and learner.partition(":")[0].endswith(".py"):
        table["learner"] = str(home / learner)
    return table


def joined(problems: Iterable[str]) -> str:
    """Several problems as one text, one a line where there are more."""
    found = list(problems)
    return found[0] if len(found) == 1 else "".join(f"\n  - {problem}" for problem in found)
