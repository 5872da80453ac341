"""I/O: the settings of a node, from TOML.

    listen = "127.0.0.1:7946"
    join = ["10.0.0.5:7946"]

    [agent.exchange.codec]
    density = 0.05

Every key is a field of the dataclass that it configures; what is not in the file keeps its
default. Unknown keys and wrong types are reported all at once.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

from pydantic import BeforeValidator, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from gossip.access import AccessConfig
from gossip.agent import AgentConfig
from gossip.errors import ConfigError
from p2p import Address, SwarmConfig
from p2p.certificates import MOST_KEYS
from p2p.record import NAME


def _several(value: object) -> object:
    return (value,) if isinstance(value, str | Path) else value


Kind = TypeVar("Kind")
Files = Annotated[tuple[Path, ...], BeforeValidator(_several)]  # one may stand alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that can be set about a node."""

    network_key: Files = ()
    """Files with the key of the network to be in: one, or two while one replaces the other; the
    first is used, both are accepted. None: a network of this machine's nodes, on loopback."""

    invitation: Path | None = None
    """File with this node's invitation, for a network whose members ask for one (`access`)."""

    listen: str = ""
    """HOST:PORT of the swarm, one number for UDP and TCP; port 0 takes a free one. Empty: a free
    port, on all IPv4 interfaces with a network key and on 127.0.0.1 without one."""

    advertise: str = ""
    """HOST:PORT at which others reach this node, where that is not where it listens: behind a port
    forwarding. Empty: the address it listens on."""

    join: tuple[str, ...] = ()
    """HOST:PORT of peers to begin with; a name stands for all its addresses. None: wait to be
    found, or find others on the local network."""

    lan: bool = True
    """Whether to announce the node on the local network, and to look for others there. Never
    without a network key or on loopback."""

    name: str = ""
    """What other peers see in their `gossip peers`; at most 32 bytes. Empty: the name of this
    host."""

    state_dir: Path | None = None
    """Where identity, checkpoints and api.json live. None: nothing is kept."""

    transport: Literal["auto", "udp", "tcp"] = "auto"
    """How updates travel. auto: short ones by UDP to whoever answers there, others by TCP, and all
    by UDP while TCP fails. udp: all by UDP. tcp: everything by TCP, for networks that block UDP."""

    api: str = "127.0.0.1:0"
    """HOST:PORT of the local API; loopback only."""

    checkpoint_every: float = 10.0
    """Seconds between checkpoints; what a power cut can cost. The first comes after a fifth of
    them. A guess."""

    evaluate_every: float = 5.0
    """Seconds between evaluations of the model, which pause training. A guess."""

    threads: int = 1
    """PyTorch's threads. More than the cores that are free slows training many times over."""

    seed: int = 0
    """Of the learner; all nodes of a swarm should share it, so that their models start equal."""

    access: AccessConfig = field(default_factory=AccessConfig)
    swarm: SwarmConfig = field(default_factory=SwarmConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)

    def __post_init__(self) -> None:
        for name, addresses in (
            ("listen", [self.listen] if self.listen else []),
            ("advertise", [self.advertise] if self.advertise else []),
            ("api", [self.api]),
            ("join", self.join),
        ):
            for address in addresses:
                try:
                    Address.parse(address)
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from None
        if self.advertise and not Address.parse(self.advertise).port:
            raise ValueError(f"advertise: nobody can reach port 0, as in {self.advertise!r}")
        if len(self.network_key) > MOST_KEYS:
            raise ValueError(
                f"network_key is one file, or {MOST_KEYS} while one replaces the other, not "
                f"{len(self.network_key)}"
            )
        if not self.name.isprintable() or len(self.name.encode()) > NAME:
            raise ValueError(f"name is a printable text of at most {NAME} bytes, not {self.name!r}")
        if self.threads < 1:
            raise ValueError(f"threads is at least 1, not {self.threads}")
        for name in ("checkpoint_every", "evaluate_every"):
            if not getattr(self, name) > 0:  # so that NaN is refused as well
                raise ValueError(
                    f"{name} is a number of seconds above 0, not {getattr(self, name)}"
                )


def read(path: Path | None, **overrides: object) -> Config:
    """The settings in `path`, with every override that is not None in their place.

    Raises ConfigError, which says what is wrong, and where it was said.
    """
    table: dict[str, Any] = {}
    if path is not None:
        table = read_table(path)
        check(table, str(path))  # apart, so that the file is not blamed for the command line
    given = {key: value for key, value in overrides.items() if value is not None}
    return check(table | given, "the command line")


def read_table(path: Path) -> dict[str, Any]:
    """What a TOML file holds. Raises ConfigError."""
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None


def check(table: Mapping[str, Any], source: str) -> Config:
    """Make a Config of values by name, nested or not. Raises ConfigError, which names `source`."""
    config, problems = settle(table, Config)
    if config is None:
        raise ConfigError(f"{source}: {'; '.join(problems)}")
    return config


def settle(table: Mapping[str, Any], kind: type[Kind]) -> tuple[Kind | None, list[str]]:
    """Make a dataclass of values by name, nested or not; or None, and all that is wrong."""
    problems = _unknown_keys(table, kind)
    try:
        made = TypeAdapter(kind).validate_python(dict(table))
    except ValidationError as error:
        return None, problems + list(map(_described, error.errors()))
    return (None if problems else made), problems


def _described(problem: ErrorDetails) -> str:
    name = ".".join(map(str, problem["loc"]))
    where = f"{name}: " if name else ""
    if problem["type"] == "value_error":  # one of ours, which names the value
        return f"{where}{problem['ctx']['error']}"
    return f"{where}{problem['msg']}, not {problem['input']!r}"


def _unknown_keys(table: Mapping[str, Any], kind: type, prefix: str = "") -> list[str]:
    known = {entry.name: entry for entry in fields(kind)}
    types = get_type_hints(kind)
    problems = []
    for key, value in table.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f", did you mean {prefix}{near[0]}?" if near else ""
            problems.append(f"there is no setting {prefix}{key}{hint}")
            continue
        several: list[Any] = [each for each in get_args(types[key]) if is_dataclass(each)]
        if is_dataclass(types[key]) and isinstance(value, dict):
            problems += _unknown_keys(value, types[key], f"{prefix}{key}.")
        elif several and isinstance(value, list):
            for place, entry in enumerate(value):
                if isinstance(entry, dict):
                    problems += _unknown_keys(entry, several[0], f"{prefix}{key}.{place}.")
    return problems
