"""I/O: asks other peers for sessions, and keeps what is to be sent on them until then."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from p2p.outbox import UNREACHABLE, Client
from p2p.seal import Half
from p2p.sessions import Destination, Sessions
from p2p.traffic import EndpointConfig, Traffic

log = logging.getLogger(__name__)
SESSION_PATH = "/v1/session"
MOST_REMEMBERED = 1024  # destinations that failed


@dataclass(slots=True)
class _Failure:
    times: int
    until: float  # when it may be tried again


class Dialler:
    """Makes sessions, one attempt at a time for each destination.

    Args:
        flush: called with a destination and the datagrams that waited, once it has a session.
    """

    def __init__(
        self,
        client: Client,
        sessions: Sessions,
        traffic: Traffic,
        config: EndpointConfig,
        flush: Callable[[Destination, bytes], None],
    ) -> None:
        self._client = client
        self._sessions = sessions
        self._traffic = traffic
        self._config = config
        self._flush = flush
        self._tasks: dict[Destination, asyncio.Task[None]] = {}
        self._waiting: dict[Destination, deque[bytes]] = {}
        self._failures: dict[Destination, _Failure] = {}

    @property
    def waiting(self) -> int:
        """Datagrams that wait for a session."""
        return sum(map(len, self._waiting.values()))

    async def close(self) -> None:
        """Give up all attempts."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._traffic.dropped_out += self.waiting
        self._waiting.clear()

    def dial(self, to: Destination) -> bool:
        """Ask for a session unless that is being done, or has failed just now; whether it is."""
        if to in self._tasks:
            return True
        now = asyncio.get_running_loop().time()
        failure = self._failures.get(to)
        if (failure and now < failure.until) or len(self._tasks) >= self._config.most_dials:
            return False
        self._tasks[to] = asyncio.create_task(self._ask(to))
        return True

    def hold(self, to: Destination, data: bytes) -> None:
        """Ask for a session and send the datagram then; drop it if nobody is to be asked now."""
        if not self.dial(to):
            self._traffic.dropped_out += 1
            return
        queue = self._waiting.setdefault(to, deque())
        if len(queue) >= self._config.most_unsealed:
            queue.popleft()
            self._traffic.dropped_out += 1
        queue.append(data)

    async def _ask(self, to: Destination) -> None:
        try:
            await self._make(to)
        except (*UNREACHABLE, ValueError) as error:
            self._remember(to)
            log.debug("no session with %s: %r", to.address, error)
        else:
            self._failures.pop(to, None)
        finally:
            del self._tasks[to]
            left = self._waiting.pop(to, ())
            self._traffic.dropped_out += len(left)

    async def _make(self, to: Destination) -> None:
        """Raises UNREACHABLE, and ValueError for an answer that is none."""
        ours = self._sessions.ask()
        async with asyncio.timeout(self._config.connect + self._config.handshake):
            status, body, peer = await self._client.post(to, SESSION_PATH, ours.encode())
        if status != 200 or peer is None:
            raise ValueError(f"it answered {status}")
        theirs, now = Half.decode(body), asyncio.get_running_loop().time()
        self._sessions.answered(ours, peer, theirs, to.address, now)
        for data in self._waiting.pop(to, ()):
            self._flush(to, data)

    def _remember(self, to: Destination) -> None:
        failure = self._failures.pop(to, None) or _Failure(0, 0.0)
        pause = min(self._config.redial * 2.0**failure.times, self._config.redial_most)
        failure.times = min(failure.times + 1, 16)
        failure.until = asyncio.get_running_loop().time() + pause
        self._failures[to] = failure
        if len(self._failures) > MOST_REMEMBERED:
            del self._failures[next(iter(self._failures))]
