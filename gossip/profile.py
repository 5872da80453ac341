"""I/O: where the wall time of a process goes, as tracks of a trace.

One track for each thread that has anything to say, and one for the exchanges under way:

    training thread   training, load, evaluate
    network loop      network: it was awake; within: sync, encode, decode, merge, and of the rest,
                      mostly packets, TLS and the local API, nothing is said
    any               idle: between two spans; of the loop, until something happened
    wire              from our half's departure until the other half was there, for each exchange
                      that this node began

What is over within SHORTEST is left out: nobody would see it, and most of what a loop does is.
"""

from __future__ import annotations

import asyncio
import selectors
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from itertools import count
from typing import Any

from gossip.exchange import Exchange
from gossip.trace import Trace
from p2p import PeerId

SHORTEST = 20e-6  # seconds. A guess.
WALL = 1  # the number of this process in the trace


class Profile:
    """Has `span`, to be handed to whatever takes time.

    Args:
        process: what the tracks are of.
        main: what the main thread does.
    """

    def __init__(self, trace: Trace, process: str, main: str) -> None:
        self._trace = trace
        self._main = main
        self._began = time.perf_counter_ns()
        self._threads = count(1)
        self._here = threading.local()
        self._flights = Flights(trace, WALL)
        trace.process(WALL, process)

    def span(self, name: str) -> AbstractContextManager[None]:
        """For `with`."""
        return _Span(self, name)

    def look(self, links: Mapping[PeerId, Exchange]) -> None:
        """See which exchanges of an agent have begun or ended."""
        self._flights.look(links, self.now)

    def loop(self) -> asyncio.AbstractEventLoop:
        """An event loop whose waking hours are spans."""
        return asyncio.SelectorEventLoop(_Selector(self))

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return (time.perf_counter_ns() - self._began) / 1e9

    @property
    def track(self) -> _Track:
        """That of the thread that asks."""
        found: _Track | None = getattr(self._here, "track", None)
        if found is None:
            thread, number = threading.current_thread(), next(self._threads)
            main = thread is threading.main_thread()
            name = self._main if main else thread.name.rpartition("_")[0] or thread.name
            self._trace.thread(WALL, number, name)
            found = self._here.track = _Track(self._trace, number)
        return found


class _Track:
    """The spans of one thread, which are open at most one within another."""

    def __init__(self, trace: Trace, number: int) -> None:
        self._trace, self._number = trace, number
        self._depth = 0
        self._free: float | None = None  # since when nothing is open

    def enter(self, now: float) -> None:
        """A span begins."""
        if self._depth == 0 and self._free is not None:
            self._tell("idle", self._free, now)
        self._depth += 1

    def leave(self, name: str, began: float, now: float) -> None:
        """The span that began last is over."""
        self._depth -= 1
        self._tell(name, began, now)
        if self._depth == 0:
            self._free = now

    def _tell(self, name: str, began: float, now: float) -> None:
        if now - began >= SHORTEST:
            self._trace.span(WALL, self._number, name, began, now - began)


class _Span:
    __slots__ = ("_began", "_name", "_profile")

    def __init__(self, profile: Profile, name: str) -> None:
        self._profile, self._name = profile, name

    def __enter__(self) -> None:
        self._began = self._profile.now
        self._profile.track.enter(self._began)

    def __exit__(self, *exception: object) -> None:
        self._profile.track.leave(self._name, self._began, self._profile.now)


class _Selector(selectors.DefaultSelector):
    """Where a loop waits: between two waits it is awake."""

    def __init__(self, profile: Profile) -> None:
        super().__init__()
        self._profile = profile
        self._awake: AbstractContextManager[None] | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self._awake is not None:
            self._awake.__exit__(None, None, None)
        found: Any = super().select(timeout)
        self._awake = self._profile.span("network")
        self._awake.__enter__()
        return list(found)


class Flights:
    """Which exchanges of one agent are on the wire, as seen from outside after each verb."""

    def __init__(self, trace: Trace, process: int) -> None:
        self._trace, self._process = trace, process
        self._numbers = count(1)
        self._known: dict[PeerId, tuple[int, int]] = {}  # the exchange, and its number here

    def look(self, links: Mapping[PeerId, Exchange], now: float) -> None:
        """Tell what has changed."""
        for peer, (n, number) in list(self._known.items()):
            link = links.get(peer)
            if link is None or not link.waiting or link.completed + 1 != n:
                self._trace.end(self._process, number, "wire", now)
                del self._known[peer]
        for peer, link in links.items():
            if link.waiting and peer not in self._known:
                n, number = link.completed + 1, next(self._numbers)
                self._known[peer] = n, number
                self._trace.begin(self._process, number, "wire", now, peer=peer.short, n=n)
