"""The commands `gossip predict` and `gossip dashboard`: what a running node answers."""

from __future__ import annotations

import json
from pathlib import Path

import click

from gossip.console import CONFIGURATION, UNREACHABLE, as_json, fail, of_node, the_node

MEDIA = {".json": "application/json", ".npy": "application/x-npy"}
OTHER = "application/octet-stream"
TIMEOUT = 60.0  # seconds; a large batch takes a while, and the first waits for a round. A guess.


@click.command()
@of_node
@click.argument("file", type=click.Path(path_type=Path))
def predict(state_dir: Path | None, api: str | None, json_: bool, file: Path) -> None:
    """Have a running node's model answer FILE; training goes on.

    A .json file holds {"inputs": [...]}, an .npy file an array (batch, ...); any other is one
    input, as the learner reads it: a picture, a sound, a text.

    \b
    gossip predict --state-dir node0 digit.json
    """
    from gossip import client

    the_node(state_dir, api)
    media = MEDIA.get(file.suffix.lower(), OTHER)
    try:
        with (
            file.open("rb") as body,
            client.send(
                state_dir, api, "predict", body.read(), {"Content-Type": media}, timeout=TIMEOUT
            ) as answer,
        ):
            found = json.load(answer)
    except client.Unreachable as error:
        fail(error, UNREACHABLE)
    except client.Refused as error:
        fail(f"{file}: {error}", CONFIGURATION)
    except OSError as error:
        fail(f"cannot read {file}: {error.strerror}", CONFIGURATION)
    if json_:
        click.echo(json.dumps(found))
    else:
        for prediction in found["predictions"]:
            click.echo(_line(prediction))


def _line(prediction: object) -> str:
    match prediction:
        case {"label": label, "probabilities": {**shares}}:
            share = shares.get(str(label))
            printable = "".join(c if c.isprintable() else "?" for c in str(label))
            return f"{printable}  {share:.1%}" if isinstance(share, float | int) else printable
        case _:
            return json.dumps(prediction)


@click.command()
@click.option(
    "--state-dir", type=click.Path(path_type=Path), metavar="DIR", required=True, help="The node's."
)
@as_json
def dashboard(state_dir: Path, json_: bool) -> None:
    """Print the address of a running node's pages; it holds the token, so keep it to yourself.

    \b
    gossip dashboard --state-dir node0
    """
    from gossip import client

    try:
        client.status(state_dir, None)
        address, token = client.known(state_dir)
    except client.Unreachable as error:
        fail(error, UNREACHABLE)
    url = f"http://{address}/#token={token}"
    click.echo(json.dumps({"url": url}) if json_ else url)
