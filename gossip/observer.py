"""I/O: watches a node for those who ask what happened: the pages, `/metrics`, the event stream.

It reads the node's events like anybody else, counts them, keeps the lines that people want to read
with what was logged, and hands everything on to whoever follows. Where the model stands is written
into the `History` whenever it was measured, or every `evaluate_every` seconds if nobody measures.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, suppress
from math import isfinite, sqrt
from typing import Any, Protocol

import torch

from gossip.access import Access
from gossip.agent import Agent, AgentEvent
from gossip.config import Config
from gossip.disk import Disk
from gossip.history import History, Moment
from gossip.telling import as_json, describe, kind
from p2p.endpoint import Endpoint

LINES = 500  # that are kept. A guess.
LAG = 256  # events that a follower may lag behind before it misses the oldest; as in the host
TICK = 1.0  # seconds between two looks whether the model was measured anew
SAMPLED = 1 << 16  # coordinates, evenly spread, that the distance is measured on: 1 ms a link
LOGGERS = ("gossip", "p2p")

Told = dict[str, Any]


class Observed(Protocol):
    """What is asked of a node."""

    config: Config
    agent: Agent
    endpoint: Endpoint
    access: Access
    disk: Disk | None
    metrics: dict[str, float]

    def status(self) -> dict[str, object]:
        """How it is."""
        ...

    def peers(self) -> dict[str, object]:
        """Whom it knows."""
        ...

    def events(self) -> AsyncIterator[AgentEvent]:
        """Everything that happens from now on."""
        ...


class Observer:
    """Use as `async with`, from the node's loop. While it is not entered, nothing is followed."""

    def __init__(self, node: Observed) -> None:
        self.history = History()
        self.lines: deque[Told] = deque(maxlen=LINES)  # what people want to read, the oldest first
        # Of events, by kind. Bans from the beginning: Prometheus sees no increase in a series that
        # appears with a 1.
        self.counts: Counter[str] = Counter(peer_banned=0)
        self.exchanged = 0.0  # Unix seconds of the last exchange; 0: there was none
        self.present = False
        self._node = node
        self._followers: list[asyncio.Queue[Told | None]] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Observer:
        self._tap = _Tap(self, asyncio.get_running_loop())
        for name in LOGGERS:
            logging.getLogger(name).addHandler(self._tap)
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._look())]
        self.present = True
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.present = False
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(self._tap)
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        for follower in self._followers:
            _put(follower, None)

    @contextmanager
    def following(self) -> Iterator[asyncio.Queue[Told | None]]:
        """A queue of all events and lines from now on; None at its end is the node's."""
        queue: asyncio.Queue[Told | None] = asyncio.Queue(LAG)
        self._followers.append(queue)
        try:
            yield queue
        finally:
            self._followers.remove(queue)

    @property
    def followers(self) -> int:
        """How many follow."""
        return len(self._followers)

    def log(self, level: str, text: str) -> None:
        """A line for people."""
        line = {"time": round(time.time(), 3), "level": level, "text": text}
        self.lines.append(line)
        self._tell({"type": "log"} | line)

    def distance(self) -> float | None:
        """How far the model is from what it shares with its neighbours, as a share of its length.

        The root of the mean square over the links of |x - r|, on at most `SAMPLED` coordinates: an
        estimate of the distance to consensus that needs nobody else. None without a link.
        """
        agent = self._node.agent
        stride = max(agent.x.numel() // SAMPLED, 1)
        x = agent.x[::stride]
        references = [link.reference for link in agent.links.values() if link.reference is not None]
        if not references:
            return None
        squares = [float((x - one[::stride]).square().sum()) for one in references]
        length = float(torch.linalg.vector_norm(x))
        found = sqrt(sum(squares) / len(squares)) / length if length else 0.0
        return found if isfinite(found) else None

    # what it does meanwhile -----------------------------------------------------------------------

    async def _read(self) -> None:
        async for event in self._node.events():
            name = kind(event)
            self.counts[name] += 1
            if name == "exchange_completed":
                self.exchanged = time.time()
            if self._followers:
                self._tell({"time": round(time.time(), 3)} | as_json(event))
            line = describe(event)
            if line is not None:
                self.log("info", line)

    async def _look(self) -> None:
        measured: Mapping[str, float] = self._node.metrics
        looked = time.monotonic()
        while True:
            metrics, now = self._node.metrics, time.monotonic()
            # Where somebody measures, only new figures count: old ones would draw stairs.
            unmeasured = not metrics and now >= looked + self._node.config.evaluate_every
            if metrics is not measured or unmeasured:
                self.history.add(self._moment(metrics))
                measured, looked = metrics, now
            await asyncio.sleep(TICK)

    def _moment(self, metrics: Mapping[str, float]) -> Moment:
        agent, traffic = self._node.agent, self._node.endpoint.traffic
        return Moment(
            time=round(time.time(), 3),
            rounds=agent.stats.rounds,
            samples=agent.samples,
            exchanges=agent.stats.exchanges,
            bytes_sent=traffic.bytes_sent,
            bytes_received=traffic.bytes_received,
            bytes_dense=agent.stats.bytes_dense,
            distance=self.distance(),
            metrics={key: value if isfinite(value) else None for key, value in metrics.items()},
        )

    def _tell(self, told: Told) -> None:
        for follower in self._followers:
            _put(follower, told)


class _Tap(logging.Handler):
    """Hands on what is logged, from whatever thread."""

    def __init__(self, observer: Observer, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(logging.WARNING)
        self._observer, self._loop = observer, loop

    def emit(self, record: logging.LogRecord) -> None:
        level, text = record.levelname.lower(), record.getMessage()
        with suppress(RuntimeError):  # the loop has ended: nobody listens any more
            self._loop.call_soon_threadsafe(self._observer.log, level, text)


def _put(queue: asyncio.Queue[Told | None], told: Told | None) -> None:
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(told)
