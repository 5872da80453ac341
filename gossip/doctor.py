"""I/O: why a node is alone, or would be.

Looks at everything that a node needs before it has its first neighbour, in the order in which a
node needs it, and changes nothing: no file is made, nobody is asked for a link. Each finding says
what is and, where it is not good, the cause and what to do next.
"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.metadata import version
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from gossip import access, checkpoint
from gossip.addresses import advertised, own, own_loopback, resolve
from gossip.config import Config
from gossip.errors import ConfigError, GossipError
from gossip.reachable import Asking, Reached
from gossip.target import build, load
from gossip.vector import Layout
from p2p import Address, IdentityError, P2PError, PortInUse, network_key
from p2p.certificates import BACKDATE, Credentials
from p2p.identity import Identity, lock
from p2p.identity import load as load_identity
from p2p.network_key import NetworkKey

Level = Literal["good", "notice", "bad"]

COPIES = 3  # of a checkpoint: the last one, the one before, and the one that is being written
SPARE = 100 << 20  # bytes that are left on a disk that is not full. A guess.


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    topic: str
    level: Level  # notice: it works, but perhaps not as intended. bad: it keeps the node alone
    text: str
    next: str = ""  # what to do; empty where there is nothing, or the text says it


@dataclass(frozen=True, slots=True)
class Target:
    """What to train, as on the command line of `gossip run`."""

    name: str
    shard: tuple[int, int] = (0, 1)
    options: Mapping[str, str] | None = None


async def examine(config: Config, target: Target | None = None) -> list[Finding]:
    """Look at everything."""
    found = [_versions(), _threads(config)]
    layout = None
    if target is not None:
        finding, layout = _target(target, config.seed)
        found.append(finding)
    found += _state(config, layout)
    identity, running, finding = _identity(config)
    found.append(finding)
    keys, more = _keys(config)
    found += more
    if any(finding.level == "bad" for finding in more):
        return found  # in clear text nobody would understand us
    credentials = None
    if keys:
        # With somebody else's name while the node runs: its sessions are not ours to replace.
        asks = Identity.generate() if running else identity
        credentials, more = _credentials(config, asks, keys, running)
        found += more
    return found + [finding async for finding in _network(config, credentials, running)]


# this machine -------------------------------------------------------------------------------------


def _versions() -> Finding:
    names = ("gossip-learning", "torch", "cryptography")
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    return Finding("versions", "good", f"{packages}, Python {platform.python_version()}")


def _threads(config: Config) -> Finding:
    cores = len(os.sched_getaffinity(0))
    text = f"threads = {config.threads}, and this process may use {cores} cores"
    if config.threads <= cores:
        return Finding("threads", "good", text)
    return Finding(
        "threads",
        "notice",
        f"{text}: they wait for each other, which slows training many times over",
        f"set threads = {cores} or less; several nodes on this machine share its cores",
    )


def _target(target: Target, seed: int) -> tuple[Finding, Layout | None]:
    try:
        learner = build(load(target.name), *target.shard, seed, target.options or {})
    except GossipError as error:
        return Finding("model", "bad", str(error)), None
    layout = learner.layout
    text = f"{target.name} has {layout.size:,} parameters, layout {layout.hash.hex()[:16]}"
    return Finding("model", "good", f"{text}; that of its peers must be the same"), layout


def _state(config: Config, layout: Layout | None) -> Iterator[Finding]:
    where = config.state_dir
    if where is None:
        yield Finding(
            "state",
            "notice",
            "there is no state directory: a restart begins anew, as another peer",
            "--state-dir DIR",
        )
        return
    there = next(path for path in (where, *where.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield Finding(
            "state", "bad", f"{there} is no directory that you can write to", "--state-dir DIR"
        )
        return
    yield _disk(there, layout)
    yield _clock(where)
    try:
        saved = checkpoint.load(where / checkpoint.NAME)
    except GossipError as error:
        yield Finding("state", "bad", str(error))
        return
    if saved is None:
        yield Finding("state", "good", f"{where} holds no model yet: training begins anew")
    elif layout is not None and saved.metadata["layout"] != layout.hash.hex():
        yield Finding(
            "state",
            "bad",
            f"{saved.path} holds a model of another layout",
            "move it away to start afresh, or give another --state-dir",
        )
    elif saved.warning:
        yield Finding("state", "notice", saved.warning)
    else:
        yield Finding("state", "good", f"training goes on from {saved.path}")


def _disk(there: Path, layout: Layout | None) -> Finding:
    free = shutil.disk_usage(there).free
    need = SPARE + (COPIES * 4 * layout.size if layout else 0)
    text = f"{free / 1e9:.1f} GB are free where {there} is"
    if free >= need:
        return Finding("disk", "good", text)
    return Finding(
        "disk",
        "bad",
        f"{text}; {COPIES} checkpoints and some room take {need / 1e9:.1f} GB",
        f"make room, or give a --state-dir on another disk: df -h {there}",
    )


def _clock(where: Path) -> Finding:
    """A clock that runs behind shows by what was written in its future."""
    now = time.time()
    written = {path: path.stat().st_mtime for path in sorted(where.glob("*")) if path.is_file()}
    ahead = [path for path, when in written.items() if when > now + BACKDATE]
    said = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if not ahead:
        return Finding("clock", "good", f"it is {said}, which nothing here contradicts")
    return Finding(
        "clock",
        "bad",
        f"it is {said}, but {ahead[0]} was written later: handshakes fail if clocks are more than "
        f"{BACKDATE / 60:.0f} minutes apart",
        "set the clock: timedatectl set-ntp true",
    )


# who we are ---------------------------------------------------------------------------------------


def _identity(config: Config) -> tuple[Identity, bool, Finding]:
    """The identity to ask with, and whether a node runs with it."""
    fresh = Identity.generate()
    if config.state_dir is None or not (config.state_dir / "identity.key").exists():
        return fresh, False, Finding("identity", "good", "the node will get a new one")
    try:
        identity = load_identity(config.state_dir / "identity.key")
    except IdentityError as error:
        return fresh, False, Finding("identity", "bad", str(error))
    good = Finding("identity", "good", f"this node is {identity.id}")
    if not (config.state_dir / "lock").exists():  # locking would make it
        return identity, False, good
    try:
        with lock(config.state_dir):
            return identity, False, good
    except IdentityError:
        text = f"this node is {identity.id}, and it is running; its seeds are asked by another"
        next_ = f"what it sees: gossip peers --state-dir {config.state_dir}"
        return identity, True, Finding("identity", "good", text, next_)


def _keys(config: Config) -> tuple[list[NetworkKey], list[Finding]]:
    if not config.network_key:
        return [], [
            Finding(
                "network key",
                "notice",
                "there is none, so the node stays on loopback: no other machine can reach it",
                "--network-key FILE with a copy of a member's; for a new network: gossip key new "
                "FILE",
            )
        ]
    try:
        keys = [network_key.load(path) for path in config.network_key]
    except P2PError as error:
        return [], [Finding("network key", "bad", str(error))]
    names = " or ".join(key.id.hex() for key in keys)
    return keys, [Finding("network key", "good", f"of network {names}; peers must say the same")]


def _credentials(
    config: Config, identity: Identity, keys: list[NetworkKey], running: bool
) -> tuple[Credentials, list[Finding]]:
    plain = Credentials(identity, keys)
    if config.invitation is None or running:
        return plain, []
    try:
        networks = [key.id for key in keys]
        shown = access.own(config.invitation, identity.id, networks, time.time())
    except ConfigError as error:
        return plain, [Finding("invitation", "bad", str(error))]
    good = Finding("invitation", "good", f"{config.invitation} is in order")
    return Credentials(identity, keys, invitation=shown), [good]


# the network --------------------------------------------------------------------------------------


async def _network(
    config: Config, credentials: Credentials | None, running: bool
) -> AsyncIterator[Finding]:
    try:
        listen = await _listen(config, credentials is not None)
    except ConfigError as error:
        yield Finding("port", "bad", str(error))
        return
    any_port = Address(listen.host, 0)
    async with AsyncExitStack() as stack:
        try:
            asking = Asking(any_port if running else listen, credentials)
            await stack.enter_async_context(asking)
        except PortInUse as error:
            yield Finding("port", "bad", str(error))
            asking = await stack.enter_async_context(Asking(any_port, credentials))
        except P2PError as error:
            yield Finding("port", "bad", str(error))
            return
        else:
            if not running:
                yield Finding("port", "good", f"{asking.address} is free, for UDP and TCP")
                yield reachable_at(config, asking.address)
        async for finding in _seeds(config, asking, listen):
            yield finding


async def _listen(config: Config, secret: bool) -> Address:
    if secret:
        return await own(config.listen or "0.0.0.0:0")
    return await own_loopback(
        config.listen or "127.0.0.1:0",
        "without a network key a node stays on loopback; give --network-key FILE",
    )


def reachable_at(config: Config, listen: Address) -> Finding:
    """Whether the address that peers are told means anything to them."""
    seeds = [Address.parse(text) for text in config.join]
    told = Address.parse(config.advertise) if config.advertise else advertised(listen, seeds)
    text = f"peers are told to reach this node at {told}"
    if _is_global(told) or not any(map(_is_global, seeds)):
        return Finding("address", "good", text)
    return Finding(
        "address",
        "notice",
        f"{text}, which means nothing on the Internet, where its seeds are: it reaches others, and "
        "none of them reaches it first",
        "forward the port in the router, and --advertise HOST:PORT",
    )


def _is_global(address: Address) -> bool:
    try:
        return ip_address(address.host).is_global
    except ValueError:  # a name
        return False


async def _seeds(config: Config, asking: Asking, listen: Address) -> AsyncIterator[Finding]:
    if not config.join:
        lan = config.lan and config.network_key and not ip_address(listen.host).is_loopback
        yield Finding(
            "seeds",
            "notice",
            "there are none: the node "
            + ("finds others on the local network only" if lan else "waits to be found"),
            "--join HOST:PORT of a peer",
        )
    for text in config.join:
        try:
            addresses = await resolve(Address.parse(text), ip_address(listen.host).version)
        except (OSError, UnicodeError) as error:
            yield Finding("seeds", "bad", f"{text} has no address: {error}", "--join an IP address")
            continue
        if not config.network_key and not all(ip_address(at.host).is_loopback for at in addresses):
            why = f"{text} is not this machine, and without a network key a node stays on loopback"
            yield Finding("seeds", "bad", why, "--network-key FILE with a copy of that machine's")
            continue
        udp = config.transport != "tcp"
        for reached in await asyncio.gather(*(asking.ask(at, udp=udp) for at in addresses)):
            yield _seed(reached)


def _seed(reached: Reached) -> Finding:
    who = f"{reached.address}" + (f" ({reached.peer})" if reached.peer else "")
    if reached.tcp:
        return Finding("seeds", "bad", f"{who}: {reached.tcp}", reached.next)
    if reached.udp is None:
        return Finding("seeds", "good", f"{who} answers by TCP; UDP is not used")
    if not reached.udp:
        return Finding("seeds", "good", f"{who} answers by TCP and by UDP")
    return Finding(
        "seeds",
        "bad",
        f"{who} answers by TCP, but by UDP there is {reached.udp}: a firewall or a router drops it",
        f'let UDP port {reached.address.port} in there and out here, or set transport = "tcp" on '
        "both",
    )
