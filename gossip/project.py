"""I/O: the command `gossip new`, which writes a project to begin with.

`TRAIN` is the learner that the README shows, word for word.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from gossip.console import CONFIGURATION, as_json, fail

TRAIN = """\
import torch
from torch import nn

from gossip import Batches, TorchLearner


def learner(shard=0, shards=1, seed=0, lr=0.1):
    torch.manual_seed(seed)  # the same weights and the same data everywhere ...
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 2))
    points = torch.randn(4000, 20)
    labels = (points[:, :10].norm(dim=1) > points[:, 10:].norm(dim=1)).long()
    mine = slice(1000 + shard, None, shards)  # ... of which this node takes its part
    order = torch.Generator().manual_seed(shard)
    return TorchLearner(
        model,
        Batches(points[mine], labels[mine], 32, order),
        nn.functional.cross_entropy,
        torch.optim.SGD(model.parameters(), lr=lr),
        test=(points[:1000], labels[:1000]),
    )
"""

NODE = """\
# Settings of the node. A flag of gossip run stands above what is said here.

state_dir = "node"  # the model, and who this node is; seen from where the node is started

# Without a network key nothing is encrypted, and the node stays on this machine.
# gossip key new home.key makes one; copy it to your other machines.
# network_key = ["home.key"]

# listen = "0.0.0.0:7946"  # a port that others can rely on; else any that is free
# join = ["192.0.2.1:7946"]  # peers to begin with; not needed on one local network

seed = 0  # the same on all nodes: their models have to start from the same weights

[agent]
# budget = "64 KiB/s"  # bytes that learning may take
# merge = "clipped"  # bounds how far one exchange moves the model, if others may lie
"""

README = """\
# {name}

One model, trained together with peers and without a server.

```sh
gossip run train.py:learner --config node.toml
gossip status --state-dir node
gossip events --state-dir node
```

A second node on this machine (the first one said where it may be joined, `address` in its status):

```sh
gossip run train.py:learner --config node.toml --state-dir node1 --shard 1/2 --join HOST:PORT
```

`--shard I/N` says which part of the data is whose; the first one would take `--shard 0/2`.

On several machines: `gossip key new home.key`, say so in `node.toml`, and copy this folder with its
key, but without `node`, to each.

Make `train.py` your own: `learner` returns the model, its data, the loss and the optimizer. Its
other parameters are set by `--option lr=0.01`.
"""


@click.command()
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@as_json
def new(directory: Path, json_: bool) -> None:
    """Write a project to begin with into DIR: a learner, the settings of a node, a README.

    \b
    gossip new digits
    cd digits
    gossip run train.py:learner --config node.toml
    """
    name = directory.resolve().name
    files = {"train.py": TRAIN, "node.toml": NODE, "README.md": README.format(name=name)}
    try:
        _write(directory, files)
    except FileExistsError as error:
        fail(f"{error.filename} is there already; give another folder", CONFIGURATION)
    except OSError as error:
        fail(f"cannot write {error.filename}: {error.strerror}", CONFIGURATION)
    if json_:
        click.echo(json.dumps({"files": [str(directory / name) for name in files]}))
    else:
        click.echo(f"cd {directory}\ngossip run train.py:learner --config node.toml")


def _write(directory: Path, files: dict[str, str]) -> None:
    """All or none of them, and never over another. Raises FileExistsError, OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in files:
        if (directory / name).is_symlink() or (directory / name).exists():
            raise FileExistsError(17, "there already", str(directory / name))
    for name, text in files.items():
        with (directory / name).open("x") as file:
            file.write(text)
