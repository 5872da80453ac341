"""I/O: the commands about the settings of a node, `gossip config`.

They take PyTorch's time to start: the defaults live with what they configure.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gossip.console import CONFIGURATION, as_json, fail, file

if TYPE_CHECKING:
    from gossip.config import Said

FILE = click.Path(path_type=Path)


@click.group()
def config() -> None:
    """Write, show and check the settings of a node.

    What the command line says comes before the environment, the environment before the file, the
    file before the default. A variable is named after the setting, with GOSSIP_ before it and __
    between section and key.

    \b
    GOSSIP_AGENT__EXCHANGE__CODEC__DENSITY=0.05 gossip run train.py:learner --config node.toml
    """


@config.command()
@click.argument("path", type=FILE, default="node.toml", metavar="[FILE]")
def init(path: Path) -> None:
    """Write a file to begin with; never over another.

    \b
    gossip config init node.toml
    """
    from gossip.config_text import template

    try:
        with open(path, "x") as file:
            file.write(template(path))
    except FileExistsError:
        fail(f"{path} exists already; give another path: gossip config init FILE", CONFIGURATION)
    except OSError as error:
        fail(
            f"cannot write {path}: {error.strerror}; give a path in a directory of yours",
            CONFIGURATION,
        )
    click.echo(f"wrote {path}; gossip config check {path} after you have changed it", err=True)


@config.command()
@file("--config", "path", help="Settings in TOML.")
@click.option("--origin", is_flag=True, help="Say of each setting who set it.")
@as_json
def show(path: Path | None, origin: bool, json_: bool) -> None:
    """Show all settings as a node would have them, in TOML.

    \b
    gossip config show --config node.toml --origin
    """
    from gossip.config import check, dotted
    from gossip.config_text import plain, settings, shown

    said = _said(path)
    if said.wrong:
        fail("; ".join(_problems(said)), CONFIGURATION)
    made = check(said.table, "the settings")
    if json_:
        every = {
            dotted(keys): {"value": plain(value), "origin": said.origins.get(keys, "default")}
            for keys, value in settings(made)
        }
        click.echo(json.dumps(every))
    else:
        click.echo(shown(made, said.origins if origin else None), nl=False)


@config.command("check")
@click.argument("path", type=FILE, metavar="FILE")
@as_json
def check_(path: Path, json_: bool) -> None:
    """Say all that is wrong with a file, and with what the environment sets.

    \b
    gossip config check node.toml
    """
    problems = _problems(_said(path))
    if json_:
        click.echo(json.dumps({"problems": problems}))
    else:
        for line in problems or [f"{path}: nothing is wrong"]:
            click.echo(f"gossip: {line}" if problems else line, err=True)
    if problems:
        sys.exit(CONFIGURATION)


@config.command()
def schema() -> None:
    """Print the JSON Schema of the file, for editors.

    \b
    gossip config schema > node.schema.json
    """
    from pydantic import TypeAdapter

    from gossip.config import Config

    click.echo(json.dumps(TypeAdapter(Config).json_schema(), indent=2))


def _said(path: Path | None) -> Said:
    from gossip.config import said
    from gossip.errors import ConfigError

    try:
        return said(path)
    except ConfigError as error:
        fail(error, CONFIGURATION)


def _problems(said: Said) -> list[str]:
    return [f"{source}: {text}" for source, wrong in said.wrong.items() for text in wrong]
