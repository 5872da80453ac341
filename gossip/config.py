"""I/O: the settings of a node, from TOML.

    listen = "127.0.0.1:7946"
    join = ["10.0.0.5:7946"]

    [agent.exchange.codec]
    density = 0.05

Every key is a field of the dataclass that it configures; what is not in the file keeps its
default. All errors of a file are reported at once.
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from gossip.agent import AgentConfig
from gossip.errors import ConfigError
from p2p import Address, SwarmConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that can be set about a node."""

    listen: str = "127.0.0.1:0"
    """HOST:PORT of the swarm, one number for UDP and TCP; port 0 takes a free one."""

    join: tuple[str, ...] = ()
    """HOST:PORT of peers to begin with. None: wait to be found."""

    state_dir: Path | None = None
    """Where identity, checkpoints and api.json live. None: nothing is kept."""

    api: str = "127.0.0.1:0"
    """HOST:PORT of the local API; loopback only."""

    checkpoint_every: float = 30.0
    """Seconds between checkpoints; what a power cut can cost. A guess."""

    evaluate_every: float = 5.0
    """Seconds between evaluations of the model, which pause training. A guess."""

    threads: int = 1
    """PyTorch's threads. More than the cores that are free slows training many times over."""

    seed: int = 0
    """Of the learner; all nodes of a swarm should share it, so that their models start equal."""

    swarm: SwarmConfig = field(default_factory=SwarmConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)

    def __post_init__(self) -> None:
        for address in (self.listen, self.api, *self.join):
            Address.parse(address)
        if self.threads < 1:
            raise ValueError(f"threads is at least 1, not {self.threads}")
        for name in ("checkpoint_every", "evaluate_every"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is a number of seconds above 0")


def read(path: Path | None, **overrides: object) -> Config:
    """The settings in `path`, with every override that is not None in their place.

    Raises ConfigError, which lists everything that is wrong with the file.
    """
    table: dict[str, Any] = {}
    if path is not None:
        try:
            table = tomllib.loads(path.read_text())
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not TOML: {error}") from None
    table |= {key: value for key, value in overrides.items() if value is not None}
    where = str(path) if path else "the command line"
    problems = _unknown_keys(table, Config)
    if problems:
        raise ConfigError(f"{where}: " + "; ".join(problems))
    try:
        return TypeAdapter(Config).validate_python(table)
    except ValidationError as error:
        raise ConfigError(
            f"{where}: "
            + "; ".join(
                f"{'.'.join(str(part) for part in problem['loc']) or 'settings'}: {problem['msg']}"
                f" (got {problem['input']!r})"
                for problem in error.errors()
            )
        ) from None


def _unknown_keys(table: dict[str, Any], kind: type, prefix: str = "") -> list[str]:
    known = {entry.name: entry for entry in fields(kind)}
    types = get_type_hints(kind)
    problems = []
    for key, value in table.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f", did you mean {prefix}{near[0]}?" if near else ""
            problems.append(f"there is no setting {prefix}{key}{hint}")
        elif is_dataclass(types[key]) and isinstance(value, dict):
            problems += _unknown_keys(value, types[key], f"{prefix}{key}.")
    return problems
