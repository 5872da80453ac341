"""I/O: the command `gossip service install`, which has systemd keep a node running.

What the unit takes away from the node, it does not need: it writes to its state directory alone,
and speaks IP, and by a Unix socket with systemd. Left to it are accelerators (no PrivateDevices,
nor ProtectClock, which closes devices too) and code that is made while it runs (no
MemoryDenyWriteExecute): learners use both. A manager that is a user's own cannot set up a view of
the file system without more rights than it may have, so there only the rest is taken away.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import click

from gossip.console import CONFIGURATION, as_json, fail, file

SYSTEM_UNITS = Path("/etc/systemd/system")
SYSTEM_STATE = Path("/var/lib")

UNIT = """\
[Unit]
Description=gossip-learning node in {home}
Wants=network-online.target
After=network-online.target

[Service]
Type=notify
WorkingDirectory={home}
ExecStart={command}
# Settings that can change while it runs; what it says about them is in the journal.
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
RestartSec=5
# Workers that load data have to outlive the last round.
KillMode=mixed
# 2 and 3: it was told something wrong, and would be again.
RestartPreventExitStatus=2 3
# Until the learner is made, data read; a guess.
TimeoutStartSec=10min
# A round of training ends first; a guess.
TimeoutStopSec=1min
UMask=0077
{hardened}
[Install]
WantedBy={wanted}
"""

ALWAYS = """\
NoNewPrivileges=yes
LockPersonality=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
"""

SYSTEM = """\
User={user}
StateDirectory={name}
StateDirectoryMode=0700
CapabilityBoundingSet=
PrivateTmp=yes
ProtectSystem=strict
ProtectHome=read-only
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RemoveIPC=yes
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
"""


@click.group()
def service() -> None:
    """Have the operating system keep a node running."""


def _name(context: click.Context, parameter: click.Parameter, text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", text):
        raise click.BadParameter(f"{text!r} is not a name of small letters, digits and hyphens")
    return text


@service.command()
@click.argument("target")
@file("--config", help="Settings in TOML.")
@click.option("--user", "own", is_flag=True, help="For your own systemd, without root.")
@click.option("--unit", default="gossip", callback=_name, show_default=True, help="Its name.")
@click.option("--print", "print_", is_flag=True, help="Write the unit to stdout; install nothing.")
@as_json
def install(
    target: str, config: Path | None, own: bool, unit: str, print_: bool, json_: bool
) -> None:
    """Install a systemd unit that runs a node with TARGET, as `gossip run` does in this folder.

    Where the network key, the peers and the port are, --config says. The unit runs as the owner of
    this folder and keeps the model in /var/lib/gossip (--user: ~/.local/state/gossip).

    \b
    sudo $(command -v gossip) service install train.py:learner --config node.toml
    gossip service install train.py:learner --config node.toml --user
    """
    home = Path.cwd()
    _check(home, config, target)
    state_dir = (_own_state() if own else SYSTEM_STATE) / unit
    text = _text(target, home, config, state_dir, unit, own)
    if print_:
        click.echo(json.dumps({"unit": text}) if json_ else text, nl=json_)
        return
    path = (_own_units() if own else SYSTEM_UNITS) / f"{unit}.service"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x") as written:
            written.write(text)
    except FileExistsError:
        fail(f"{path} is there already; remove it, or give another --unit", CONFIGURATION)
    except OSError as error:
        remedy = "" if own else "; as root, or with --user for a unit of your own"
        fail(f"cannot write {path}: {error.strerror}{remedy}", CONFIGURATION)
    following = _following(unit, state_dir, own)
    if json_:
        click.echo(json.dumps({"path": str(path), "next": following}))
    else:
        click.echo("\n".join(following))
        click.echo(f"wrote {path}; what comes next is on stdout", err=True)


def _check(home: Path, config: Path | None, target: str) -> None:
    """Refuse what could not run."""
    for given in (home, config, target):
        if not str(given).isprintable():
            fail(f"systemd cannot be told of {str(given)!r}; give it another name", CONFIGURATION)
    place = Path(target.rpartition(":")[0])
    for path in (config, place if place.suffix == ".py" else None):
        if path is not None and not path.is_file():
            fail(f"there is no {path} in {home}; go where the node is to run", CONFIGURATION)


def _text(
    target: str, home: Path, config: Path | None, state_dir: Path, name: str, own: bool
) -> str:
    command = [sys.executable, "-m", "gossip", "run", target]
    command += ["--config", str(config)] if config is not None else []
    command += ["--state-dir", str(state_dir)]
    if own:
        hardened = ALWAYS
    else:
        try:
            user = home.owner()
        except KeyError:
            fail(f"{home} belongs to nobody who has a name here; see chown", CONFIGURATION)
        hardened = ALWAYS + SYSTEM.format(user=user, name=name)
    return UNIT.format(
        home=str(home).replace("%", "%%"),
        command=" ".join(map(_quoted, command)),
        hardened=hardened,
        wanted="default.target" if own else "multi-user.target",
    )


def _quoted(word: str) -> str:
    """As systemd reads it: systemd.service(5), command lines."""
    word = word.replace("%", "%%").replace("$", "$$")
    if re.fullmatch(r"[\w./:=%$@+,-]+", word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _own_units() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "systemd" / "user"


def _own_state() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")


def _following(unit: str, state_dir: Path, own: bool) -> list[str]:
    """What to type next."""
    if own:
        return [
            "systemctl --user daemon-reload",
            f"systemctl --user enable --now {unit}",
            'sudo loginctl enable-linger "$USER"',  # or it ends when they log out
            f"gossip status --state-dir {state_dir}",
            f"journalctl --user-unit {unit} -f",
        ]
    return [
        "sudo systemctl daemon-reload",
        f"sudo systemctl enable --now {unit}",
        f"sudo {sys.executable} -m gossip status --state-dir {state_dir}",  # root has other paths
        f"sudo journalctl -u {unit} -f",
    ]
