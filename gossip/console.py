"""What the commands share: exit codes, the one line that says what went wrong, kinds of options."""

from __future__ import annotations

import sys
from collections.abc import Callable
from math import isnan
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import click

Option = Callable[[Callable[..., Any]], Callable[..., Any]]

UNEXPECTED, USAGE, CONFIGURATION, UNREACHABLE, INTERRUPTED = 1, 2, 3, 4, 130


def fail(message: object, code: int) -> NoReturn:
    """Say one line on stderr and exit."""
    click.echo(f"gossip: {message}", err=True)
    sys.exit(code)


as_json = click.option("--json", "json_", is_flag=True, help="Print one JSON object on stdout.")


class Seconds(click.FloatRange):
    """A number of seconds; `FloatRange` lets NaN pass."""

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Refuse what is no number."""
        seconds: float = super().convert(value, param, ctx)
        if isnan(seconds):
            self.fail(f"{value!r} is not a number of seconds.", param, ctx)
        return seconds


class Duration(click.ParamType):  # type: ignore[type-arg]
    """`90`, `90s`, `15m`, `1h` or `7d`, in seconds."""

    name = "duration"
    units = MappingProxyType({"s": 1, "m": 60, "h": 3600, "d": 86400})

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Refuse what is no duration above 0."""
        if isinstance(value, int | float):
            return value
        number, unit = (value[:-1], value[-1:]) if value[-1:] in self.units else (value, "s")
        if not number.isascii() or not number.isdecimal() or not 0 < int(number) < 10**9:
            self.fail(f"{value!r} is not a duration, for example 90s, 15m, 1h or 7d", param, ctx)
        return float(int(number) * self.units[unit])


def file(*names: str, metavar: str = "FILE", **more: Any) -> Option:
    """An option that takes a path."""
    return click.option(*names, type=click.Path(path_type=Path), metavar=metavar, **more)


profile = click.option(
    "--profile",
    type=click.Path(path_type=Path),
    is_flag=False,
    flag_value="profile.json",
    metavar="[FILE]",
    help="Write where time goes, for ui.perfetto.dev; .gz compresses.  [profile.json]",
)


def network_key(help_: str, **more: Any) -> Option:
    """The option that says which network."""
    variable = "GOSSIP_NETWORK_KEY"
    return file("--network-key", envvar=variable, help=f"{help_}  [${variable}]", **more)


def of_node(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a command that asks a running node."""
    for option in (
        as_json,
        click.option("--api", metavar="H:P", help="Its local API.  Token: $GOSSIP_API_TOKEN"),
        file("--state-dir", metavar="DIR", help="The node's."),
    ):
        command = option(command)
    return command


def the_node(state_dir: Path | None, api: str | None) -> None:
    """Refuse to guess which node is meant."""
    if state_dir is None and api is None:
        raise click.UsageError("say which node: --state-dir DIR or --api H:P")


def options(
    context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]
) -> dict[str, str]:
    """Read `NAME=VALUE` pairs."""
    pairs = [text.partition("=") for text in texts]
    for (name, equals, _), text in zip(pairs, texts, strict=True):
        if not name or not equals:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE, for example split=shards")
    return {name: value for name, _, value in pairs}
