"""Where settings are said: on which line of a file, in which variable of the environment.

A setting is named by the keys that lead to it: `agent.exchange.codec.density` in
`GOSSIP_AGENT__EXCHANGE__CODEC__DENSITY`, or below `[agent.exchange.codec]` in TOML. No I/O.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

Keys = tuple[str | int, ...]

PREFIX, BETWEEN = "GOSSIP_", "__"


def lines(text: str) -> dict[Keys, int]:
    """On which line, from 1, each key and each section of valid TOML begins.

    The parser of the standard library does not tell. But no statement of TOML is the beginning of
    another one that ends with a line break, so the fewest lines that parse are one statement.
    """
    found: dict[Keys, int] = {}
    section: Keys = ()
    several: dict[Keys, int] = {}  # how often `[[section]]` came
    statement, first = "", 1
    for number, line in enumerate(text.split("\n"), 1):
        statement, first = (statement + line + "\n", first) if statement else (line + "\n", number)
        try:
            table = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue  # it goes on
        if statement.lstrip().startswith("["):
            ((section, inside),) = _leaves(table)
            if isinstance(inside, list):
                several[section] = several.get(section, -1) + 1
                section = (*section, several[section])
            found.setdefault(section, first)
        for keys, _ in () if statement.lstrip().startswith("[") else _leaves(table):
            found.setdefault((*section, *keys), first)
        statement = ""
    return found


def line_of(keys: Keys, found: Mapping[Keys, int]) -> int | None:
    """The line of a setting, or else of the section that it is in; None if neither is there."""
    while keys:
        if keys in found:
            return found[keys]
        keys = keys[:-1]
    return None


def variables(environment: Mapping[str, str], kind: type) -> tuple[dict[str, Any], dict[Keys, str]]:
    """The settings of a dataclass that the environment names, and the variable of each.

    Several values are separated by commas, several files by colons; an empty variable says nothing.
    A variable that names no section and no setting is somebody else's: Kubernetes, for one, sets
    `GOSSIP_PORT` for a service called gossip.
    """
    table: dict[str, Any] = {}
    origins: dict[Keys, str] = {}
    known = [entry.name for entry in fields(kind)]
    for name in sorted(environment):
        text = environment[name]
        keys = tuple(name.removeprefix(PREFIX).lower().split(BETWEEN))
        ours = len(keys) > 1 or keys[0] in known
        if not name.startswith(PREFIX) or not text or not ours:
            continue
        origins[keys] = name
        inside = table
        for key in keys[:-1]:
            inside = inside.setdefault(key, {})
            if not isinstance(inside, dict):
                break  # another variable gave the section itself a value, which will be refused
        else:
            inside[keys[-1]] = _several(text, _type(kind, keys))
    return table, origins


def _several(text: str, kind: Any) -> str | list[str]:
    if get_origin(kind) is not tuple:
        return text
    return text.split(":" if Path in get_args(kind) else ",")


def _type(kind: Any, keys: tuple[str, ...]) -> Any:
    """Of the setting with these keys; None if there is none."""
    for key in keys:
        kind = get_type_hints(kind).get(key) if is_dataclass(kind) else None
    return kind


def merged(table: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both, and of what both say the latter, section by section."""
    both = dict(table)
    for key, value in over.items():
        below = both.get(key)
        both[key] = (
            merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
        )
    return both


def _leaves(table: Mapping[str, Any]) -> Iterator[tuple[Keys, Any]]:
    for key, value in table.items():
        if isinstance(value, dict) and value:
            for keys, leaf in _leaves(value):
                yield (key, *keys), leaf
        else:
            yield (key,), value
