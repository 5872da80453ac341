"""I/O: the command that finds out why a node is alone, `gossip doctor`."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from gossip.console import CONFIGURATION, UNREACHABLE, as_json, fail, file, network_key, options
from gossip.run_command import shard

MARKS = {"good": "ok  ", "notice": "note", "bad": "BAD "}


@click.command()
@click.argument("target", required=False)
@network_key("The network to be in.", multiple=True)
@file(
    "--invitation",
    envvar="GOSSIP_INVITATION",
    help="What lets the node in.  [$GOSSIP_INVITATION]",
)
@click.option("--listen", metavar="H:P", help="The swarm's port.")
@click.option("--advertise", metavar="H:P", help="Where others reach it, if not there.")
@click.option("--join", multiple=True, metavar="H:P", help="A peer to begin with; repeatable.")
@click.option("--shard", "part", default="0/1", callback=shard, metavar="I/N", help="For TARGET.")
@click.option("--option", multiple=True, callback=options, metavar="NAME=VALUE", help="For TARGET.")
@file("--config", help="Settings in TOML.")
@file("--state-dir", metavar="DIR", help="The node's.")
@as_json
def doctor(
    target: str | None,
    part: tuple[int, int],
    option: dict[str, str],
    config: Path | None,
    json_: bool,
    **settings: Any,
) -> None:
    """Find out why a node is alone: give what `gossip run` is given.

    Changes nothing, and asks nobody for a link. Ends with code 4 if something is bad.

    \b
    gossip doctor train.py:learner --network-key home.key --join 10.0.0.5:7946
    gossip doctor --config node.toml --json
    """
    from gossip.config import read
    from gossip.doctor import Target, examine
    from gossip.errors import ConfigError

    logging.getLogger("p2p").setLevel(logging.ERROR)  # the findings say it
    for several in ("join", "network_key"):
        settings[several] = settings[several] or None
    try:
        made = read(config, **settings)
    except ConfigError as error:
        fail(error, CONFIGURATION)
    wanted = None if target is None else Target(target, part, option)
    findings = asyncio.run(examine(made, wanted))
    if json_:
        click.echo(json.dumps({"findings": list(map(asdict, findings))}))
    else:
        for finding in findings:
            click.echo(f"{MARKS[finding.level]} {finding.topic}: {finding.text}")
            if finding.next:
                click.echo(f"     {'next' if finding.level != 'good' else 'see'}: {finding.next}")
    if any(finding.level == "bad" for finding in findings):
        sys.exit(UNREACHABLE)
