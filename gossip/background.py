"""I/O: a host in a thread of its own, beside a thread that trains.

The threads meet in a few places only: futures, one buffer that belongs to one of them at a time, a
bounded row of events, and a flag by which the host asks for what training keeps. The host never
reads what training writes; it asks, and `step` answers with a copy. The last copy is what it saves
if it has to leave by itself.

A thread may die: of a bug, or of a `SystemExit` in a callback. Whoever waits for it then gets
`NetworkLost`, and nothing else of what went on there.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from gossip.agent import AgentEvent
from gossip.config import Config
from gossip.errors import NetworkLost, NotFinite
from gossip.host import EVENTS, Host
from gossip.resume import State
from gossip.vector import Layout, hold

Result = TypeVar("Result")

log = logging.getLogger("gossip")


@dataclass(frozen=True, slots=True)
class SyncCompleted:
    """The model went to the network and what others made of it came back."""

    merged: bool  # whether it is another model now
    samples: int  # that the model has seen, here and in what it was adopted from
    exchanges: int  # since the start
    neighbours: int
    bytes_sent: int  # since the start, everything counted
    bytes_received: int


@dataclass(frozen=True, slots=True)
class NetworkEnded:
    """The network broke; training goes on alone."""

    cause: str


MemberEvent = AgentEvent | SyncCompleted | NetworkEnded


class Beside(Host):
    """A host whose training is in another thread.

    That thread keeps `local` up to date: it is what a checkpoint gets when nobody can be asked.
    """

    def __init__(self, layout: Layout, parameters: Tensor, config: Config) -> None:
        super().__init__(layout, parameters, config)
        self.asked = False  # by the host; read by the thread that trains
        self._answer: asyncio.Future[None] | None = None

    def merge(self, buffer: Tensor, samples: int) -> SyncCompleted:
        """Sync the model in the buffer, and turn it into the change that this makes, if any."""
        merged = self.sync(buffer, samples)
        if merged is not buffer:
            hold(self._layout, buffer)
            torch.sub(merged, buffer, out=buffer)
        traffic = self.endpoint.traffic
        return SyncCompleted(
            merged is not buffer,
            self.agent.samples,
            self.agent.stats.exchanges,
            len(self.agent.links),
            traffic.bytes_sent,
            traffic.bytes_received,
        )

    def answered(self) -> None:
        """What `asked` asked for is in `local`."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(None)

    async def _kept(self) -> State | None:
        if self._left:
            return self.local
        self._answer = asyncio.get_running_loop().create_future()
        self.asked = True
        try:
            async with asyncio.timeout(self.config.checkpoint_every):
                await self._answer
        except TimeoutError:
            return None  # it does not train at all; the last checkpoint is as good
        finally:
            self.asked = False
        return self.local


class Background:
    """The thread of a host; `start` and `stop` it once."""

    def __init__(self, host: Beside, *, listens: bool) -> None:
        self.host = host
        # Not told yet; the host's only if somebody `listens`.
        self.events: deque[MemberEvent] = deque(maxlen=EVENTS)
        self.cause: BaseException | None = None  # of the thread's death
        self._listens = listens
        self._loop: asyncio.AbstractEventLoop | None = None  # between `start` and `stop`
        self._over = asyncio.Event()
        self._up: Future[None] = Future()
        self._down: Future[None] = Future()  # done when the thread has nothing more to do
        # A daemon thread: if your loop dies in a way that skips `with`, the process must end.
        self._thread = threading.Thread(target=self._run, name="gossip", daemon=True)

    def start(self) -> None:
        """Returns when the host is up. Raises what entering it raises."""
        self._thread.start()
        self._up.result()

    def stop(self) -> None:
        """Say goodbye, save, and wait for it."""
        self.end()
        self._loop = None
        self._thread.join()

    def end(self) -> None:
        """Have the host leave; does not wait."""
        self._soon(self._over.set)

    def answer(self, kept: State) -> None:
        """Give the host what it asked for."""
        self.host.asked = False
        self.host.local = kept  # here and not there: an answer that lags must not undo a later one
        self._soon(self.host.answered)

    def call(self, work: Callable[[], Result]) -> Future[Result]:
        """Have the host's thread do it; ask `ready`, and `result`.

        It is a function and no coroutine: of what a loop takes on while it ends it may finish
        nothing, and a coroutine that is never run is complained about.
        """
        if self._loop is None:
            raise RuntimeError("the network runs inside `with gossip.join(...) as peer:` only")
        called: Future[Result] = Future()
        try:
            self._loop.call_soon_threadsafe(_do, work, called)
        except RuntimeError:  # the loop is closed
            called.cancel()
        return called

    def ready(self, called: Future[Result]) -> bool:
        """Whether `result` would not wait."""
        return (called.done() and not called.cancelled()) or self._down.done()

    def wait(self, called: Future[Result]) -> None:
        """Until `ready`."""
        either: tuple[Future[Any], ...] = (called, self._down)
        wait(either, return_when=FIRST_COMPLETED)
        if not called.done() or called.cancelled():
            wait((self._down,))

    def result(self, called: Future[Result]) -> Result:
        """Wait for it. Raises NotFinite; for all else that went wrong there, NetworkLost."""
        self.wait(called)
        if not called.done() or called.cancelled():
            raise NetworkLost(f"the network's thread ended: {self.cause!r}") from self.cause
        error = called.exception()
        if isinstance(error, NotFinite):
            raise error
        if error is not None:
            raise NetworkLost(f"the network's thread failed: {error!r}") from error
        return called.result()

    def _soon(self, what: Any, *arguments: object) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: nobody is there to be told
                self._loop.call_soon_threadsafe(what, *arguments)

    # in the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self.cause = error
            if not self._up.done():
                self._up.set_exception(error)
        finally:
            self._down.set_result(None)

    async def _serve(self) -> None:
        async with self.host:
            listener = asyncio.create_task(self._listen()) if self._listens else None
            self._loop = asyncio.get_running_loop()
            self._up.set_result(None)
            await self._over.wait()
            if listener is not None:
                listener.cancel()

    async def _listen(self) -> None:
        async for event in self.host.events():
            self.events.append(event)


def _do(work: Callable[[], Result], called: Future[Result]) -> None:
    try:
        called.set_result(work())
    except BaseException as error:
        called.set_exception(error)
        if not isinstance(error, Exception):
            raise
