"""The commands `gossip model`: take a node's model out, put one in, compare two."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gossip.console import CONFIGURATION, UNREACHABLE, as_json, fail, of_node, options, the_node

if TYPE_CHECKING:
    from gossip.model_file import Difference, ModelFile

PROGRAMS = (".onnx", ".pt2", ".pt")  # endings of files that compute


@contextmanager
def _failing() -> Iterator[None]:
    """What goes wrong is one line and an exit code."""
    from gossip.client import Refused, Unreachable
    from gossip.errors import GossipError

    try:
        yield
    except Unreachable as error:
        fail(error, UNREACHABLE)
    except (Refused, GossipError) as error:
        fail(error, CONFIGURATION)


@click.group()
def model() -> None:
    """A node's model as a safetensors file: take it out, put one in, compare."""


@model.command()
@of_node
@click.argument("file", type=click.Path(path_type=Path))
def pull(state_dir: Path | None, api: str | None, json_: bool, file: Path) -> None:
    """Write a running node's model to FILE.

    \b
    gossip model pull --state-dir node0 model.safetensors
    """
    the_node(state_dir, api)
    with _failing():
        from gossip import model_client

        _tell(model_client.pull(state_dir, api, file), file, "holds the node's model", json_)


@model.command()
@of_node
@click.argument("file", type=click.Path(path_type=Path))
def push(state_dir: Path | None, api: str | None, json_: bool, file: Path) -> None:
    """Have a running node go on from the model in FILE; the others receive the difference.

    Each exchange averages: a swarm of N nodes moves by a part in N, so push to all of them to
    replace the model of all.

    \b
    gossip model push --state-dir node0 model.safetensors
    """
    the_node(state_dir, api)
    with _failing():
        from gossip import model_client

        _tell(model_client.push(state_dir, api, file), file, "is the node's model now", json_)


@model.command()
@click.option(
    "--state-dir", type=click.Path(path_type=Path), metavar="DIR", required=True, help="The node's."
)
@click.option("--target", metavar="TARGET", help="What makes the model: train.py:learner")
@click.option("--option", multiple=True, callback=options, metavar="NAME=VALUE", help="For TARGET.")
@as_json
@click.argument("file", type=click.Path(path_type=Path))
def export(
    state_dir: Path, target: str | None, option: dict[str, str], json_: bool, file: Path
) -> None:
    """Write the last checkpoint's model to FILE; the node need not run.

    The values alone, as safetensors; or a program that computes, for which it takes the TARGET
    that the node was started with: FILE.onnx (ONNX), FILE.pt2 (torch.export) or FILE.pt
    (TorchScript). A program is run once, and compared with the model.

    \b
    gossip model export --state-dir node0 model.safetensors
    gossip model export --state-dir node0 --target train.py:learner model.onnx
    """
    if file.suffix in PROGRAMS:
        if target is None:
            raise click.UsageError(f"a {file.suffix} file computes: say what, with --target")
        _export_program(state_dir, target, option, file, json_)
        return
    if target is not None:
        raise click.UsageError(f"--target is for {', '.join(PROGRAMS)}, and FILE is {file}")
    with _failing():
        from gossip import model_client

        exported, warning = model_client.export(state_dir, file)
        _warn(warning)
        _tell(exported, file, f"holds the model of {state_dir}", json_)


@model.command()
@as_json
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
def diff(json_: bool, a: Path, b: Path) -> None:
    """Compare two models, files or state directories, layer by layer.

    \b
    gossip model diff before.safetensors after.safetensors
    """
    with _failing():
        from gossip import model_client, model_file

        sides = [model_client.open_model(path) for path in (a, b)]
        for _, warning in sides:
            _warn(warning)
        found = model_file.differences(*(side for side, _ in sides))
    if json_:
        click.echo(json.dumps({"layers": [_as_json(each) for each in found]}))
    else:
        _show(found)


def _export_program(
    state_dir: Path, target: str, options: dict[str, str], file: Path, json_: bool
) -> None:
    with _failing():
        from gossip import program_file
        from gossip.target import build, load

        learner = build(load(target), 0, 1, 0, options)
        off, warning = program_file.export(learner, state_dir, file)
    _warn(warning)
    if json_:
        click.echo(json.dumps({"file": str(file), "off": off}))
    else:
        click.echo(f"{file} computes what the model of {state_dir} does, within {off:.1g}")


def _warn(warning: str | None) -> None:
    if warning:
        click.echo(f"gossip: {warning}", err=True)


def _tell(found: ModelFile, file: Path, what: str, json_: bool) -> None:
    numbers = sum(part.count for part in found.parts.values())
    if json_:
        counted = {"file": str(file), "layers": len(found.parts), "parameters": numbers}
        click.echo(json.dumps(found.about | counted))
    else:
        click.echo(f"{file} {what}: {len(found.parts):,} layers, {numbers:,} numbers")


def _as_json(found: Difference) -> dict[str, Any]:
    """JSON has no NaN and no infinity."""
    numbers = {"largest": found.largest, "relative": found.relative}
    return {"layer": found.layer} | {
        name: value if isfinite(value) else None for name, value in numbers.items()
    }


def _show(found: list[Difference]) -> None:
    names = ["".join(c if c.isprintable() else "?" for c in each.layer) for each in found]
    width = max(map(len, ["layer", *names]))
    click.echo(f"{'layer':<{width}}  {'largest':>9}  relative")
    for name, each in zip(names, found, strict=True):
        click.echo(f"{name:<{width}}  {each.largest:9.3g}  {each.relative:.3g}")
