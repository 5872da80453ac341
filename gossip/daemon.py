"""I/O: what `gossip run` does between the command line and the exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gossip import config as settings
from gossip import notify
from gossip.config import Config
from gossip.errors import ConfigError, GossipError
from gossip.learner import Learner
from gossip.node import Node
from gossip.profile import Profile
from gossip.reload import changes, merged
from gossip.target import build, load
from gossip.telling import describe
from gossip.trace import Trace

log = logging.getLogger("gossip")


class TrainingFailed(GossipError):
    """The learner raised; the text says where."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a node ended."""

    status: dict[str, object]
    interrupted: bool


def run(
    target: str,
    shard: tuple[int, int],
    options: Mapping[str, str],
    config_file: Path | None,
    overrides: Mapping[str, Any],
    seconds: float | None,
    profile: Path | None = None,
) -> Outcome:
    """Run a node until `seconds` are over, a signal comes, or training fails; with `profile`, write
    there where the time goes."""
    read = partial(settings.read, config_file, **overrides)
    config = read()
    logging.getLogger().setLevel(config.log_level.upper())
    torch.set_num_threads(config.threads)
    with Trace(profile) if profile else nullcontext() as trace:
        watching = Profile(trace, f"gossip run {target}", "network loop") if trace else None
        learner = build(load(target), *shard, config.seed, options)
        with asyncio.Runner(loop_factory=watching.loop if watching else None) as runner:
            return runner.run(_run(learner, config, seconds, read, watching))


async def _run(
    learner: Learner,
    config: Config,
    seconds: float | None,
    read: Callable[[], Config],
    profile: Profile | None,
) -> Outcome:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    received: list[signal.Signals] = []
    leaving: list[asyncio.Task[None]] = []  # kept, or they would be collected

    def on_signal(number: signal.Signals) -> None:
        received.append(number)
        if stop.is_set():
            leaving.append(loop.create_task(_leave_at_once(node, number)))
        stop.set()

    node = Node(learner, config, profile)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
    async with node:
        say(f"{node.me} is up; local API at {node.api_address}")
        if config.state_dir is not None:
            say(f"its pages: gossip dashboard --state-dir {config.state_dir}")
        if node.network is None:
            say(
                "no network key, so nothing is encrypted and this node stays on loopback; for more "
                "than one machine: gossip key new FILE, and --network-key FILE on each"
            )
        else:
            say(f"in network {node.network}")
        terminal = sys.stderr.isatty()

        def on_hangup() -> None:
            if terminal and not sys.stderr.isatty():  # it was closed: nobody watches any more
                on_signal(signal.SIGTERM)
            else:
                _reload(node, read)

        loop.add_signal_handler(signal.SIGHUP, on_hangup)
        notify.tell("READY=1")
        telling = asyncio.create_task(_tell(node))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait(
            {stopping, node.finished}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        for task in (telling, stopping):
            task.cancel()
        notify.tell("STOPPING=1")
        try:
            if node.finished.done():
                await node.finished
            kept = "the model is saved" if config.state_dir else "no model is kept (no --state-dir)"
            say(f"stopping: training ends its round, the swarm is told, {kept}; again to hurry")
            await node.rest()
        except Exception as error:  # whatever a learner may raise
            raise _failed(error, config) from error
        status = node.status()
    return Outcome(status, signal.SIGINT in received)


def _reload(node: Node, read: Callable[[], Config]) -> None:
    """Take over what can change; all that is wrong is said, and then nothing changes."""
    notify.tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
    try:
        config = read()
        changed = changes(node.config, config)
        node.reload(merged(node.config, config))
    except ConfigError as error:
        log.error("nothing is changed: %s", error)
    else:
        logging.getLogger().setLevel(node.config.log_level.upper())
        for change in changed:
            _note(node, f"{change}" if change.live else f"{change} needs a restart")
        if not changed:
            _note(node, "no setting has changed")
    finally:
        notify.tell("READY=1")


def _note(node: Node, line: str) -> None:
    """Say it, here and on the node's pages."""
    say(line)
    node.api.observer.log("info", line)


async def _leave_at_once(node: Node, number: signal.Signals) -> None:
    """A second signal: do not wait for the round of training, which nobody can interrupt."""
    await node.leave()
    say("left in the middle of a round; what was synced is saved")
    os._exit(128 + number)


def _failed(error: Exception, config: Config) -> TrainingFailed:
    kept = f"the model so far is in {config.state_dir}" if config.state_dir else "no model was kept"
    text = f"training failed: {error!r}; {kept}"
    if not isinstance(error, GossipError):  # those say what to do; else only the code tells
        text += "\n" + "".join(traceback.format_exception(error)).rstrip()
    return TrainingFailed(text)


async def _tell(node: Node) -> None:
    """Say on stderr what an operator wants to know."""
    async for event in node.events():
        line = describe(event)
        if line is not None:
            say(line)


def say(line: str) -> None:
    """Progress goes to stderr; where nobody can be told any more, nobody is held up."""
    with suppress(OSError):  # a file on a full disk, a terminal that was closed
        print(line, file=sys.stderr, flush=True)
