"""Settings as text: as they are in force, and as a file to begin with.

What a setting means is written once, in the docstring under its field, and read from there.
"""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from gossip.access import AccessConfig
from gossip.config import Config
from gossip.origins import Keys

HEAD = """\
# The settings of a node: gossip run TARGET --config {path}
# Each stands here with its default. These are the ones that are often changed; all of them:
# gossip config show --config {path}
"""


def settings(config: Any, prefix: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Every setting and its value, those of a section after those above it."""
    inside = []
    for entry in fields(config):
        value = getattr(config, entry.name)
        if is_dataclass(value):
            inside.append(((*prefix, entry.name), value))
        else:
            yield (*prefix, entry.name), value
    for keys, section in inside:
        yield from settings(section, keys)


def shown(config: Config, origins: dict[Keys, str] | None = None) -> str:
    """The settings in TOML; with `origins`, each with who said it."""
    written = []
    section: Keys = ()
    for keys, value in settings(config):
        if keys[:-1] != section:
            section = keys[:-1]
            written.append(f"\n[{'.'.join(map(str, section))}]")
        line = f"# {keys[-1]} is not set" if value is None else f"{keys[-1]} = {toml(value)}"
        written.append(line if origins is None else f"{line}  # {origins.get(keys, 'default')}")
    return "\n".join(written) + "\n"


def plain(value: Any) -> Any:
    """A setting as JSON has it."""
    if isinstance(value, tuple):
        return [plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def toml(value: Any) -> str:
    """A value in TOML. JSON writes the same, but for DEL, and for infinity and NaN."""
    value = plain(value)
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def template(path: Path) -> str:
    """A file to begin with, in which nothing is set and everything is explained."""
    top, access = "\n\n".join(_explained(Config)), "\n\n".join(_explained(AccessConfig))
    return f"{HEAD.format(path=path)}\n{top}\n\n[access]\n\n{access}\n"


def _explained(kind: type[Config | AccessConfig]) -> Iterator[str]:
    defaults, said = kind(), docstrings(kind)
    for entry in fields(kind):
        value = getattr(defaults, entry.name)
        if is_dataclass(value):
            continue
        comment = "\n".join(f"# {line}".rstrip() for line in said[entry.name].splitlines())
        yield f"{comment}\n# {entry.name} = {toml('PATH' if value is None else value)}"


def docstrings(kind: type) -> dict[str, str]:
    """The text under each field of a dataclass."""
    (made,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(made, ast.ClassDef)
    found = {}
    for above, below in zip(made.body, made.body[1:], strict=False):
        match above, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = inspect.cleandoc(text)
    return found
