"""I/O: the commands of `gossip-sim` about runs that are folders: sweep, compare, replay."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from gossip.console import CONFIGURATION, INTERRUPTED, UNEXPECTED, Seconds, as_json, fail

Command = TypeVar("Command", bound=Callable[..., Any])

GOALS = ("accuracy", "worst", "loss", "consensus")
COSTS = ("bytes", "exchanges", "rounds", "time")
folder = click.Path(path_type=Path, exists=True, file_okay=False)


def with_engine(command: Command) -> Command:
    """The options --engine and --ray-address."""
    engine = click.option(
        "--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True
    )
    address = click.option(
        "--ray-address", metavar="A", help="Of a cluster.  [a Ray of this machine]"
    )
    return engine(address(command))


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs"), show_default=True)
@click.option("-j", "--jobs", type=click.IntRange(1, 1024), default=1, show_default=True)
@with_engine
@click.option("--figures/--no-figures", default=True, help="And report.html.  [--figures]")
def sweep(
    file: Path, out: Path, jobs: int, engine: str, ray_address: str | None, figures: bool
) -> None:
    """Run all cells of FILE, each into a folder of its own; what is finished is skipped.

    \b
    gossip-sim sweep sweep.toml --out runs -j 2
    """
    from gossip.errors import GossipError
    from sims import cluster
    from sims import sweep as sweeping

    engines: dict[str, Any] = {
        "local": sweeping.processes,
        "ray": partial(cluster.ray_tasks, address=ray_address),
    }
    try:
        cells = sweeping.plan(file)
        failures = sweeping.sweep(cells, out, jobs, engines[engine], figures=figures)
    except GossipError as error:
        fail(error, CONFIGURATION)
    except KeyboardInterrupt:
        fail("interrupted; the same command goes on", INTERRUPTED)
    if failures:
        fail("; ".join(failures), UNEXPECTED)
    click.echo(f"gossip-sim compare {out}/* shows them", err=True)


class Goal(click.ParamType):  # type: ignore[type-arg]
    """`accuracy=0.95`."""

    name = "goal"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, float]:
        """Refuse what is no goal."""
        name, _, number = str(value).partition("=")
        try:
            level = float(number)
        except ValueError:
            level = float("nan")
        if name not in GOALS or level != level:
            self.fail(f"{value!r} is no goal, for example accuracy=0.95", param, ctx)
        return name, level


@click.command()
@click.argument("runs", nargs=-1, required=True, type=folder)
@click.option("--x", "across", type=click.Choice(COSTS), default="bytes", show_default=True)
@click.option("--y", "up", type=click.Choice(GOALS), default="accuracy", show_default=True)
@click.option("--to", type=Goal(), metavar="GOAL", help="What it takes to reach it: accuracy=0.95.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="A figure: .svg, .pdf or .png."
)
@as_json
def compare(
    runs: tuple[Path, ...],
    across: str,
    up: str,
    to: tuple[str, float] | None,
    out: Path | None,
    json_: bool,
) -> None:
    """Compare RUNS; those that differ in the seed only are one row, with a 95 % interval.

    \b
    gossip-sim compare runs/* --x bytes --y accuracy --to accuracy=0.95 --out compare.svg
    """
    from gossip.errors import GossipError
    from sims import compare as comparing
    from sims.laboratory import need_plots

    if out is not None and out.suffix not in (".svg", ".pdf", ".png"):
        raise click.BadParameter(f"{out} is neither .svg, .pdf nor .png", param_hint="--out")
    goal, value = to if to is not None else (up, None)
    try:
        if out is not None:
            need_plots()
        groups, left_out = comparing.load(runs)
    except GossipError as error:
        fail(error, CONFIGURATION)
    for reason in left_out:
        click.echo(f"gossip: left out: {reason}", err=True)
    rows = comparing.table(groups, goal, value)
    if json_:
        plain = [{key: _plain(value) for key, value in row.items()} for row in rows]
        click.echo(json.dumps(plain))
    else:
        _print(rows, goal, value)
    if out is not None:
        from sims import canvas, figures

        figure = canvas.draw(figures.comparison, groups, across, up)
        try:
            out.write_bytes(canvas.save(figure, out.suffix[1:]))
        except OSError as error:
            fail(f"cannot write {out}: {error.strerror}; give another --out", CONFIGURATION)


def _plain(value: Any) -> Any:
    return asdict(value) if hasattr(value, "half") else value


def _print(rows: list[dict[str, Any]], goal: str, value: float | None) -> None:
    from rich.console import Console
    from rich.table import Table

    columns = ["run", "seeds", goal]
    columns += [f"to {value:g}", *COSTS] if value is not None else []
    table = Table(*columns)
    for row in rows:
        cells = [row["run"], str(row["seeds"]), _number(row[goal], goal)]
        if value is not None:
            cells.append(f"{row['reached']} of {row['seeds']}")
            cells += ["" if row[cost] is None else _number(row[cost], cost) for cost in COSTS]
        table.add_row(*cells)
    Console().print(table)


def _number(estimate: Any, name: str) -> str:
    scale, unit, digits = {
        "bytes": (1e-3, " kB", 0),
        "time": (1, " s", 1),
        "exchanges": (1, "", 0),
        "rounds": (1, "", 0),
    }.get(name, (1, "", 3))
    half = "" if estimate.half is None else f" ± {estimate.half * scale:,.{digits}f}"
    return f"{estimate.mean * scale:,.{digits}f}{half}{unit}"


@click.command()
@click.argument("run", type=folder)
@click.option("--until", type=Seconds(min=0), metavar="T", help="Virtual seconds.  [the end]")
@click.option("--node", type=click.IntRange(0), metavar="I", help="Show all that happens to it.")
@as_json
def replay(run: Path, until: float | None, node: int | None, json_: bool) -> None:
    """Play RUN again and show what happened; it must come out as it was, to the byte.

    \b
    gossip-sim replay runs/a --until 12.5 --node 3
    """
    from gossip.errors import GossipError
    from sims.replay import replay as play

    def tell(fact: dict[str, Any]) -> None:
        if json_:
            click.echo(json.dumps(fact))
        else:
            rest = {k: v for k, v in fact.items() if k not in ("time", "node", "event")}
            said = "  ".join(f"{key} {value}" for key, value in rest.items())
            click.echo(f"{fact['time']:>11.6f}  node {fact['node']:<5} {fact['event']:<16} {said}")

    try:
        row = play(run, until, node, tell)
    except GossipError as error:
        fail(error, CONFIGURATION)
    except KeyboardInterrupt:
        fail("interrupted", INTERRUPTED)
    click.echo(
        f"at {row.time:g} s: {row.up} nodes up, accuracy {row.accuracy_mean:.3f}, "
        f"{row.exchanges:,} exchanges, trace {row.trace[:16]}",
        err=True,
    )
