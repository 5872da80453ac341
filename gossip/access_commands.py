"""I/O: the commands about who is in a network: its keys, invitations to it, the log of both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from gossip.console import (
    CONFIGURATION,
    UNEXPECTED,
    Duration,
    as_json,
    fail,
    file,
    network_key,
)


@click.group()
def key() -> None:
    """Network keys: who has one is in the network."""


@key.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--admin", is_flag=True, help="Make a key that signs invitations instead.")
@as_json
def new(file: Path, admin: bool, json_: bool) -> None:
    """Begin a network: write a new key to FILE, for you alone to read.

    \b
    gossip key new home.key
    gossip key new admin.key --admin
    """
    from p2p import identity, network_key
    from p2p.errors import IdentityError

    try:
        if admin:
            peer = str(identity.create(file).id)
            found = {"admin": peer, "file": str(file)}
            line = f"{file} signs invitations; each member's settings name it: admins = [{peer!r}]"
            click.echo(json.dumps(found) if json_ else line)
            return
        made = network_key.create(file)
    except IdentityError as error:
        fail(error, CONFIGURATION)
    if json_:
        click.echo(json.dumps({"network": made.id.hex(), "file": str(file)}))
    else:
        click.echo(f"{file} holds the key of network {made.id.hex()}; give a copy to each member")


@click.command()
@network_key("The network.", required=True)
@file("--admin-key", required=True, help="Who invites: an admin key, or an inviter's identity.key.")
@file("--invitation", help="The inviter's own, if it is no admin.")
@click.option("--for", "peer", metavar="PEER", help="Who is invited.  [whoever has the line]")
@click.option(
    "--uses", type=click.IntRange(1, 1000), default=1, show_default=True, help="Peers it lets in."
)
@click.option("--expires", type=Duration(), default="7d", show_default=True, metavar="TIME")
@click.option("--role", type=click.Choice(["member", "inviter"]), default="member")
@as_json
def invite(json_: bool, **wanted: Any) -> None:
    """Invite somebody into a network whose members ask for an invitation.

    Prints one line of text, to be handed over like a password unless it is --for somebody.

    \b
    gossip invite --network-key home.key --admin-key admin.key > guest.invitation
    gossip run train.py:learner --network-key home.key --invitation guest.invitation
    """
    from gossip import inviting
    from p2p import P2PError

    try:
        invitation, text = inviting.invite(**wanted)
    except P2PError as error:
        fail(error, CONFIGURATION)
    if json_:
        click.echo(json.dumps({"invitation": text} | invitation))
    else:
        click.echo(text)
        click.echo(
            f"for {invitation['for'] or 'whoever has it'}; gossip ban {invitation['name']} "
            "revokes it",
            err=True,
        )


@click.group()
def audit() -> None:
    """A node's log of who came, who was refused, and what was decided."""


@audit.command()
@click.argument("path", required=False, type=click.Path(path_type=Path), metavar="[FILE|DIR]")
@file("--state-dir", metavar="DIR", help="The node's.")
@as_json
def verify(path: Path | None, state_dir: Path | None, json_: bool) -> None:
    """Check that a log is as it was written; name the first line that is not.

    With --state-dir, by the node's own identity; else by whoever the first line names.

    \b
    gossip audit verify --state-dir node0
    """
    from gossip import audit as log
    from gossip.errors import AuditBroken, ConfigError
    from p2p import IdentityError, identity

    if (path is None) == (state_dir is None):
        raise click.UsageError("say which log: --state-dir DIR, or a file or directory")
    try:
        signer = identity.load(state_dir / "identity.key").id if state_dir else None
        found = log.check(state_dir / log.DIRECTORY if state_dir else path or Path(), signer)
    except AuditBroken as error:
        fail(error, UNEXPECTED)
    except (ConfigError, IdentityError) as error:
        fail(error, CONFIGURATION)
    shown = {name: getattr(found, name) for name in ("files", "lines", "checkpoints", "unsigned")}
    if json_:
        click.echo(json.dumps(shown | {"signer": found.signer}))
    else:
        click.echo(
            f"{found.lines:,} lines are as they were written, all but the last {found.unsigned:,} "
            f"signed by {found.signer}"
        )
