"""I/O: requests to other peers, and the streams that wait for their turn."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import NamedTuple

import aiohttp
from aiohttp.client_reqrep import ClientResponse

from p2p.certificates import ANY_MEMBER, Credentials, NotAdmitted, SomebodyElse, peer_of
from p2p.peer import Address, PeerId
from p2p.sessions import Destination
from p2p.traffic import EndpointConfig, Traffic

log = logging.getLogger(__name__)
PACKET_PATH = "/v1/packet"
CHUNK = 256 << 10  # bytes handed to TCP at a time
MOST_ANSWER = 1024  # bytes of an answer's body that are read
MOST_WARNED = 64  # addresses of strangers that are named in the log
UNREACHABLE = (aiohttp.ClientError, OSError, TimeoutError)


class Answer(NamedTuple):
    """What came back for a request."""

    status: int
    body: bytes
    peer: PeerId | None  # who answered, proven by the handshake; None without one


class Client:
    """Sends requests; connections are kept and used again, one set for each destination."""

    def __init__(self, config: EndpointConfig, credentials: Credentials | None) -> None:
        self._config = config
        self._secure = credentials is not None
        self._warned: set[Address] = set()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, ssl=credentials.client if credentials else True
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=config.connect),
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            response_class=_Response,
        )

    async def close(self) -> None:
        await self._session.close()

    async def post(self, to: Destination, path: str, data: bytes) -> Answer:
        """Send a request and wait for its answer. Raises UNREACHABLE.

        With credentials nobody but the destination's peer gets to see any of it.
        """
        try:
            answer = await self._post(to, path, data)
        except aiohttp.ClientSSLError as error:
            self._warn(to.address, error.__cause__)
            raise
        self._warned.discard(to.address)
        return answer

    async def _post(self, to: Destination, path: str, data: bytes) -> Answer:
        scheme = "https" if self._secure else "http"
        wanted = ANY_MEMBER if to.peer is None else str(to.peer)
        async with (
            asyncio.timeout(self._config.stall) as alarm,
            aclosing(self._cut(data, alarm)) as chunks,
            self._session.post(
                f"{scheme}://{to.address}{path}",
                data=chunks,
                headers={"Content-Length": str(len(data))},
                # Following a redirect would let a peer choose whom we talk to.
                allow_redirects=False,
                # Connections are shared between requests with the same name only.
                server_hostname=wanted if self._secure else None,
            ) as response,
        ):
            assert isinstance(response, _Response)
            body = await response.content.read(MOST_ANSWER) if response.status == 200 else b""
            return Answer(response.status, body, response.peer)

    def _warn(self, address: Address, cause: BaseException | None) -> None:
        """Say once that there is somebody with whom we cannot talk."""
        if isinstance(cause, SomebodyElse) or address in self._warned:
            return  # peers come and go, and others take their addresses
        if len(self._warned) >= MOST_WARNED:
            return
        self._warned.add(address)
        if isinstance(cause, NotAdmitted):
            log.warning("%s: %s", address, cause.args[0])
        else:
            log.warning(
                "%s is not in our network (%s); its members have the same network key, and clocks "
                "that agree",
                address,
                getattr(cause, "verify_message", None) or cause,
            )

    async def _cut(self, data: bytes, alarm: asyncio.Timeout) -> AsyncGenerator[memoryview, None]:
        # One piece would be copied as a whole, and we could not see it move.
        view, now = memoryview(data), asyncio.get_running_loop().time
        began = now()
        for start in range(0, len(view), CHUNK):
            alarm.reschedule(self._config.deadline(began, now(), start))
            yield view[start : start + CHUNK]


class _Response(ClientResponse):
    """An answer that remembers who gave it; its connection may serve others before we ask."""

    peer: PeerId | None = None

    async def start(self, connection: aiohttp.connector.Connection) -> ClientResponse:
        if connection.transport is not None:
            self.peer = peer_of(connection.transport)
        return await super().start(connection)


class Outbox:
    """Streams that wait, in one lane for each destination; a lane sends one at a time.

    What does not fit is dropped, rather than what waits: that may be on its way already. When a
    destination fails, all that waits for it is dropped, unless there is another way.

    Args:
        detour: told that a destination fails, and each stream that waits for it; whether it
            carries the stream.
    """

    def __init__(
        self,
        client: Client,
        traffic: Traffic,
        config: EndpointConfig,
        detour: Callable[[Destination, bytes], bool],
    ) -> None:
        self._client = client
        self._traffic = traffic
        self._config = config
        self._detour = detour
        self._lanes: dict[Destination, deque[bytes]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._traffic.dropped_out += sum(map(len, self._lanes.values()))  # of tasks never begun

    @property
    def queues(self) -> dict[str, int]:
        """How much waits, the stream under way in each lane included."""
        return {
            "streams": sum(map(len, self._lanes.values())),
            "stream_bytes": self._bytes,
        }

    @property
    def _bytes(self) -> int:
        return sum(len(waiting) for lane in self._lanes.values() for waiting in lane)

    def put(self, to: Destination, data: bytes) -> None:
        """Send it when its turn comes, or drop and count it."""
        lane = self._lanes.get(to, deque())
        if not self._fits(lane, data):
            self._traffic.dropped_out += 1
            return
        lane.append(data)
        if to not in self._lanes:
            self._lanes[to] = lane
            task = asyncio.create_task(self._empty(to))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _fits(self, lane: deque[bytes], data: bytes) -> bool:
        return (
            (bool(lane) or len(self._lanes) < self._config.most_connections)
            and len(lane) < self._config.most_waiting
            and sum(map(len, lane)) < self._config.lane_bytes
            and self._bytes + len(data) <= self._config.pending_bytes
            and data not in lane
        )

    async def _empty(self, to: Destination) -> None:
        lane = self._lanes[to]
        try:
            while lane:
                status = (await self._client.post(to, PACKET_PATH, lane[0])).status
                size = len(lane.popleft())
                if status == 204:
                    self._traffic.sent(size)
                else:
                    self._traffic.dropped_out += 1
                    log.debug("%s refused a stream of %d bytes: %d", to.address, size, status)
        except UNREACHABLE as error:
            log.debug("no stream to %s, %d waited: %r", to.address, len(lane), error)
            while lane and self._detour(to, lane[0]):
                lane.popleft()
        finally:
            self._traffic.dropped_out += len(lane)
            del self._lanes[to]
