"""What the commands share: exit codes, the one line that says what went wrong, common options."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import click

UNEXPECTED, USAGE, CONFIGURATION, UNREACHABLE, INTERRUPTED = 1, 2, 3, 4, 130


def fail(message: object, code: int) -> NoReturn:
    """Say one line on stderr and exit."""
    click.echo(f"gossip: {message}", err=True)
    sys.exit(code)


as_json = click.option("--json", "json_", is_flag=True, help="Print one JSON object on stdout.")


def of_node(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a command that asks a running node."""
    for option in (
        as_json,
        click.option("--api", metavar="H:P", help="Its local API.  Token: $GOSSIP_API_TOKEN"),
        click.option(
            "--state-dir", type=click.Path(path_type=Path), metavar="DIR", help="The node's."
        ),
    ):
        command = option(command)
    return command


def the_node(state_dir: Path | None, api: str | None) -> None:
    """Refuse to guess which node is meant."""
    if state_dir is None and api is None:
        raise click.UsageError("say which node: --state-dir DIR or --api H:P")
