"""Writes what the documents say word for word of the code: python docs/generate.py [--check]

    api.md              every public name, its signature and its docstring
    configuration.md    every setting of a node, between two marks
    simulator.md        every key of an experiment and of a sweep, every algorithm, likewise

A meaning is written once, in the docstring under the field or at the head of the function. With
--check nothing is written, and the exit status is 1 where a file is not what it would be.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

sys.path.insert(0, str(Path(__file__).parents[1]))

from gossip.codec import CodecConfig
from gossip.config import Config
from gossip.config_text import docstrings, toml
from gossip.density import DensityConfig
from sims.algorithms import OURS
from sims.baselines import BASELINES
from sims.experiment import Experiment
from sims.sweep import SweepConfig

HERE = Path(__file__).parent
WIDTH = 100
BEGIN, END = "<!-- written by generate.py: {} -->", "<!-- end -->"

API = {
    "Beside a training loop of your own": (
        "gossip.embedding:join",
        "gossip.member:Member",
        "gossip.background:SyncCompleted",
        "gossip.background:NetworkEnded",
    ),
    "Your model and your data": (
        "gossip.learner:Learner",
        "gossip.learner:TorchLearner",
        "gossip.learner:Batches",
        "gossip.learner:Answering",
        "gossip.learner:Probing",
        "gossip.learner:Resumable",
    ),
    "A node of your own": (
        "gossip.node:Node",
        "gossip.host:Host",
        "gossip.config:Config",
        "gossip.agent:AgentConfig",
        "gossip.exchange:ExchangeConfig",
        "gossip.codec:CodecConfig",
        "gossip.agent:Agent",
    ),
    "Events": (
        "p2p.events:PeerUp",
        "p2p.events:PeerDown",
        "p2p.events:PacketRejected",
        "p2p.events:RecordRejected",
        "p2p.events:SeedUnreachable",
        "p2p.events:PeerGraylisted",
        "p2p.events:PeerBanned",
        "p2p.peer:Peer",
        "p2p.peer:Address",
        "gossip.exchange:LinkOpened",
        "gossip.exchange:LinkReset",
        "gossip.exchange:ExchangeCompleted",
        "gossip.exchange:ExchangeUndone",
        "gossip.exchange:ModelMismatched",
        "gossip.exchange:PayloadRejected",
        "gossip.agent:ModelAdopted",
    ),
    "Simulations": (
        "sims.experiment:read",
        "sims.experiment:check",
        "sims.experiment:Experiment",
        "sims.laboratory:conduct",
        "sims.laboratory:Outcome",
        "sims.report:Report",
        "sims.recorder:Row",
        "sims.stage:stage",
        "sims.sweep:plan",
        "sims.sweep:sweep",
        "sims.compare:load",
        "sims.compare:table",
        "sims.replay:replay",
    ),
    "Errors": ("gossip.errors", "p2p.errors"),
}
SETTINGS = ("Config", "AgentConfig", "ExchangeConfig", "CodecConfig", "Experiment")  # have pages
MADE = ("Member", "Agent", "Outcome")  # nobody else makes one
SPECIAL = ("__init__", "__enter__", "__exit__", "__aenter__", "__aexit__", "__iter__", "__len__")


# settings -----------------------------------------------------------------------------------------


def reference(kind: type, root: str = "") -> str:
    """Every setting of a dataclass, section by section."""
    return "\n\n".join(_sections(kind, root, several=False))


def _sections(kind: type, name: str, *, several: bool) -> Iterator[str]:
    types, said = get_type_hints(kind), _said(kind)
    lines, inside = [], []
    for entry in fields(kind):
        section = _section(types[entry.name])
        if section is not None:
            dotted = f"{name}.{entry.name}" if name else entry.name
            inside.append((section, dotted, get_origin(types[entry.name]) is tuple))
            continue
        text = f"* `{entry.name}`{_choices(types[entry.name])}{_default(entry)}: "
        lines.append(_wrapped(text + " ".join(said[entry.name].split()), "  "))
    head = f"### `{'[[' if several else '['}{name}{']]' if several else ']'}`\n\n" if name else ""
    about = _first(kind) if name else ""
    yield head + "\n\n".join(filter(None, (about, "\n".join(lines))))
    for section, dotted, many in inside:
        yield from _sections(section, dotted, several=many)


def _section(annotation: Any) -> type | None:
    """The dataclass in a table, in a row of tables, or in a table that may be left out."""
    for each in (annotation, *get_args(annotation)):
        if is_dataclass(each) and isinstance(each, type):
            return each
    return None


def _said(kind: type) -> dict[str, str]:
    """The text under each field, those that it inherits included."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if is_dataclass(each):
            found |= docstrings(each)
    return found


def _choices(annotation: Any) -> str:
    if get_origin(annotation) is not Literal:
        annotation = next((a for a in get_args(annotation) if get_origin(a) is Literal), annotation)
    if get_origin(annotation) is not Literal:
        return ""
    return f" ({', '.join(f'`{value}`' for value in get_args(annotation))})"


def _default(entry: Any) -> str:
    value = entry.default
    if value is MISSING and entry.default_factory is MISSING:
        return ", to be given"
    if value is MISSING:
        value = entry.default_factory()
    if value in (None, "", (), {}, ({},)):
        return ", not set"
    return f" = `{toml(value)}`"


def algorithms() -> str:
    """Every algorithm, what it is, and its settings."""
    ours = [entry for kind in (CodecConfig, DensityConfig) for entry in fields(kind)]
    known = {OURS: ("Ours.", {entry.name: entry.default for entry in ours})}
    for name, kind in BASELINES.items():
        parameters = [*inspect.signature(kind).parameters.values()][1:]
        known[name] = (_first(kind), {each.name: each.default for each in parameters})
    lines = []
    for name, (about, settings) in known.items():
        listed = ", ".join(f"`{key}` = {value:g}" for key, value in settings.items())
        lines.append(_wrapped(f"* `{name}`: {about}" + f" {listed}." * bool(listed), "  "))
    return "\n".join(lines)


# docstrings ---------------------------------------------------------------------------------------


def api() -> str:
    """The API reference."""
    parts = [
        "# Python API",
        "Written by `make docs` from the docstrings. What stands in `gossip.__all__` is imported "
        "from `gossip`, the rest from where it says. Settings are in "
        "[configuration.md](configuration.md), descriptions of runs in "
        "[simulator.md](simulator.md), callbacks for Lightning, Hugging Face and Keras in "
        "[embedding.md](embedding.md).",
    ]
    for title, names in API.items():
        parts.append(f"## {title}")
        for name in names:
            parts += _module(name) if ":" not in name else _object(*name.split(":"))
    return "\n\n".join(_wrapped(part) for part in parts) + "\n"


def _module(name: str) -> Iterator[str]:
    """The errors of a module, as its docstring shows them."""
    module = import_module(name)
    text = inspect.getdoc(module) or ""
    yield f"### `{name}`"
    first, _, tree = text.partition("\n\n")
    yield first
    if tree:
        yield f"```text\n{tree}\n```"
    else:
        for each in ast.parse(inspect.getsource(module)).body:
            if isinstance(each, ast.ClassDef):
                about = (ast.get_docstring(each) or "").split("\n\n")[0]
                yield f"* `{each.name}`: {' '.join(about.split())}"


def _object(home: str, name: str) -> Iterator[str]:
    found = getattr(import_module(home), name)
    public = home if not home.startswith("gossip") or name not in _exports() else "gossip"
    source = textwrap.dedent(inspect.getsource(found))
    (made,) = ast.parse(source).body
    yield f"### `{public}.{name}`"
    if isinstance(made, ast.ClassDef):
        yield from _class(found, made, source.splitlines())
    else:
        yield f"```python\n{_signature(made, source.splitlines())}\n```"
        yield _prose(inspect.getdoc(found) or "")


def _class(found: type, made: ast.ClassDef, source: list[str]) -> Iterator[str]:
    yield _prose(ast.get_docstring(made) or "")
    if found.__name__ in SETTINGS:
        return
    if shown := [source[each.lineno - 1] for each in made.body if isinstance(each, ast.AnnAssign)]:
        yield "```python\n" + textwrap.dedent("\n".join(shown)) + "\n```"
    for each in made.body:
        if not isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if each.name.startswith("_") and each.name not in SPECIAL:
            continue
        about = ast.get_docstring(each) or ""
        if not about and (each.name != "__init__" or found.__name__ in MADE):
            continue
        properties = [part for part in each.decorator_list if isinstance(part, ast.Name)]
        above = "".join(f"@{part.id}\n" for part in properties)
        yield f"```python\n{above}{_signature(each, source)}\n```"
        if about:
            yield _prose(about)


def _signature(made: Any, source: list[str]) -> str:
    """As it is in the source, where it is laid out already."""
    body = made.body[0].lineno - 1
    lines = [line for line in source[made.lineno - 1 : body] if line.strip()]
    return textwrap.dedent("\n".join(lines)).rstrip().rstrip(":")


def _exports() -> list[str]:
    return list(import_module("gossip").__all__)


def _first(kind: type) -> str:
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


def _prose(text: str) -> str:
    """A docstring as Markdown: its lists of arguments and errors become lists."""
    parts = []
    for paragraph in text.split("\n\n"):
        head, _, rest = paragraph.partition("\n")
        if head in ("Args:", "Raises:", "Returns:"):
            items = re.split(r"\n(?=\S)", textwrap.dedent(rest))
            listed = [" ".join(item.split()) for item in items]
            named = [re.sub(r"^(\w+):", r"`\1`:", item) for item in listed]
            parts.append("\n".join([head, "", *(_wrapped(f"* {item}", "  ") for item in named)]))
        else:
            parts.append(textwrap.dedent(paragraph))
    return "\n\n".join(parts)


# files --------------------------------------------------------------------------------------------


def _wrapped(text: str, indent: str = "") -> str:
    if "\n" in text:
        return text
    return textwrap.fill(
        text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def between(text: str, what: str, content: str) -> str:
    """A document with this part of it written anew. Raises ValueError if it has no such part."""
    begin = BEGIN.format(what)
    head, found, rest = text.partition(begin)
    _, closed, tail = rest.partition(END)
    if not (found and closed):
        raise ValueError(f"there is no part {begin!r} that ends with {END!r}")
    return f"{head}{begin}\n\n{content}\n\n{END}{tail}"


def written() -> dict[Path, str]:
    """What each file should hold."""
    configuration = (HERE / "configuration.md").read_text()
    simulator = (HERE / "simulator.md").read_text()
    simulator = between(simulator, "experiment", reference(Experiment))
    simulator = between(simulator, "sweep", reference(SweepConfig))
    return {
        HERE / "api.md": api(),
        HERE / "configuration.md": between(configuration, "settings", reference(Config)),
        HERE / "simulator.md": between(simulator, "algorithms", algorithms()),
    }


def main() -> None:
    """Write, or say what is old."""
    old = [path for path, text in written().items() if _read(path) != text]
    if "--check" in sys.argv[1:]:
        if old:
            sys.exit(f"{', '.join(path.name for path in old)}: run make docs")
        return
    for path, text in written().items():
        path.write_text(text)


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    main()
