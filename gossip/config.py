"""I/O: the settings of a node, from TOML.

    listen = "127.0.0.1:7946"
    join = ["10.0.0.5:7946"]

    [agent.exchange.codec]
    density = 0.05

Every key is a field of the dataclass that it configures. The command line has the last word, then
the environment (`GOSSIP_AGENT__EXCHANGE__CODEC__DENSITY=0.05`), then the file; what nobody names
keeps its default. Unknown keys and wrong types are reported all at once, with their lines.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args, get_type_hints

from pydantic import BeforeValidator, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from gossip.access import AccessConfig
from gossip.agent import AgentConfig
from gossip.errors import ConfigError
from gossip.hours import Hours
from gossip.origins import Keys, line_of, lines, merged, variables
from p2p import Address, SwarmConfig
from p2p.certificates import MOST_KEYS
from p2p.record import NAME


def _several(value: object) -> object:
    return (value,) if isinstance(value, str | Path) else value


Kind = TypeVar("Kind")
Files = Annotated[tuple[Path, ...], BeforeValidator(_several)]  # one may stand alone
Texts = Annotated[tuple[str, ...], BeforeValidator(_several)]


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
    them. A guess. Can change while the node runs (SIGHUP)."""

    evaluate_every: float = 5.0
    """Seconds between evaluations of the model, which pause training. A guess. Can change while the
    node runs (SIGHUP)."""

    threads: int = 1
    """PyTorch's threads. More than the cores that are free slows training many times over."""

    quiet: Texts = ()
    """Hours of the day in which the node learns alone: "22:00-06:00", one range or several, by this
    machine's clock; see `gossip.hours`. It starts no exchange and answers none; what keeps links
    alive goes on, some 100 bytes a second for each neighbour. Neighbours are told, so they turn to
    others meanwhile. For links that cost by day, and for owners who sleep. Can change while the
    node runs (SIGHUP)."""

    log_level: Literal["info", "warning", "error"] = "warning"
    """What `gossip run` logs on stderr, beside the lines about links that it prints always. info:
    every event. Can change while the node runs (SIGHUP)."""

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
        for hours in self.quiet:
            try:
                Hours.parse(hours)
            except ValueError as error:
                raise ValueError(f"quiet: {error}") from None
        if self.threads < 1:
            raise ValueError(f"threads is at least 1, not {self.threads}")
        for name in ("checkpoint_every", "evaluate_every"):
            if not getattr(self, name) > 0:  # so that NaN is refused as well
                raise ValueError(
                    f"{name} is a number of seconds above 0, not {getattr(self, name)}"
                )


class Problem(NamedTuple):
    """Something that is wrong with the setting that these keys lead to."""

    keys: Keys
    text: str


class Said(NamedTuple):
    """What a file and the environment say."""

    table: dict[str, Any]
    origins: dict[Keys, str]  # who said it, of settings by their keys: "FILE:LINE" or "$VARIABLE"
    wrong: dict[str, list[str]]  # all that is wrong, by who said it; apart, so that none is blamed
    # for what another one said


def read(
    path: Path | None, environment: Mapping[str, str] = os.environ, **overrides: object
) -> Config:
    """The settings in `path`, or in the environment, or those overrides that are not None.

    Raises ConfigError, which says what is wrong, and where it was said.
    """
    found = said(path, environment)
    if found.wrong:
        raise ConfigError(
            "; ".join(f"{source}: {'; '.join(wrong)}" for source, wrong in found.wrong.items())
        )
    given = {key: value for key, value in overrides.items() if value is not None}
    return check(found.table | given, "the command line")


def said(path: Path | None, environment: Mapping[str, str] = os.environ) -> Said:
    """What is set without the command line. Raises ConfigError for a file that is not TOML."""
    found = Said({}, {}, {})
    if path is not None:
        table = read_table(path)
        there = lines(path.read_text())
        found = Said(table, {keys: f"{path}:{line}" for keys, line in there.items()}, {})
        problems = _settle(table, Config)[1]
        if problems:
            found.wrong[str(path)] = [_at_line(each, there) for each in problems]
    ours, names = variables(environment, Config)
    problems = _settle(ours if found.wrong else merged(found.table, ours), Config)[1]
    if problems:
        found.wrong["the environment"] = [_in(each, names) for each in problems]
    origins = found.origins | {keys: f"${name}" for keys, name in names.items()}
    return Said(merged(found.table, ours), origins, found.wrong)


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
    made, problems = _settle(table, kind)
    return made, [problem.text for problem in problems]


def _settle(table: Mapping[str, Any], kind: type[Kind]) -> tuple[Kind | None, list[Problem]]:
    problems = _unknown_keys(table, kind)
    try:
        made = TypeAdapter(kind).validate_python(dict(table))
    except ValidationError as error:
        return None, problems + list(map(_problem, error.errors()))
    return (None if problems else made), problems


def _at_line(problem: Problem, there: Mapping[Keys, int]) -> str:
    line = line_of(problem.keys, there)
    return problem.text if line is None else f"line {line}: {problem.text}"


def _in(problem: Problem, names: Mapping[Keys, str]) -> str:
    """With the variable. A problem may be with a section, or with a part of a value."""
    for keys, name in names.items():
        both = min(len(keys), len(problem.keys))
        if both and keys[:both] == problem.keys[:both]:
            return f"${name}: {problem.text}"
    return problem.text


def _problem(problem: ErrorDetails) -> Problem:
    """Our own errors know a section, but begin with the name of the setting in it."""
    keys = problem["loc"]
    if problem["type"] == "value_error":
        keys = (*keys, str(problem["ctx"]["error"]).split(maxsplit=1)[0].rstrip(":"))
    return Problem(keys, _described(problem))


def dotted(keys: Keys) -> str:
    """The setting as it is written: `agent.exchange.codec.density`."""
    return ".".join(map(str, keys))


def _described(problem: ErrorDetails) -> str:
    name = dotted(problem["loc"])
    where = f"{name}: " if name else ""
    if problem["type"] == "value_error":  # one of ours, which names the value
        return f"{where}{problem['ctx']['error']}"
    return f"{where}{problem['msg']}, not {problem['input']!r}"


def _unknown_keys(table: Mapping[str, Any], kind: type, prefix: Keys = ()) -> list[Problem]:
    known = {entry.name: entry for entry in fields(kind)}
    types = get_type_hints(kind)
    problems = []
    for key, value in table.items():
        keys = (*prefix, key)
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f", did you mean {dotted((*prefix, near[0]))}?" if near else ""
            problems.append(Problem(keys, f"there is no setting {dotted(keys)}{hint}"))
            continue
        several: list[Any] = [each for each in get_args(types[key]) if is_dataclass(each)]
        if is_dataclass(types[key]) and isinstance(value, dict):
            problems += _unknown_keys(value, types[key], keys)
        elif several and isinstance(value, list):
            for place, entry in enumerate(value):
                if isinstance(entry, dict):
                    problems += _unknown_keys(entry, several[0], (*keys, place))
    return problems
