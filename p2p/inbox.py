"""I/O: the HTTP server of an endpoint, and who may talk to it.

A connection is admitted before a byte of it is read: by how many there are in all and from its
address, and, where each begins with a TLS handshake, by token buckets, since a handshake costs us
more than it costs whoever begins it. Handshakes have room of their own, so that strangers who do
not finish theirs take none from members.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from io import BytesIO
from ipaddress import ip_address
from typing import Any, cast

from aiohttp import http, web

from p2p.buckets import Buckets
from p2p.certificates import Credentials, NotAdmitted, peer_of
from p2p.dialler import SESSION_PATH
from p2p.outbox import PACKET_PATH
from p2p.packet import Channel, Packet
from p2p.peer import Address, PeerId
from p2p.seal import HALF_SIZE, Half
from p2p.sessions import Sessions
from p2p.traffic import EndpointConfig, Traffic

log = logging.getLogger(__name__)
HEADER, HEADERS = 1024, 32  # bytes of one header line, and how many there may be
LINGER = 1.0  # seconds for which a refused body is read and thrown away, so that the answer arrives
ACCEPTS = 16  # connections taken per wake-up
ACCEPT_PAUSE = 1.0  # seconds without accepting when the system has no room for more
SESSION_RATE, SESSION_BURST = 1.0, 8  # sessions a second that a member may ask for
OUT_OF_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
PEER_AT_FAULT = (http.HttpProcessingError, web.RequestPayloadError, ConnectionError)
NAME = {"Server": "p2p"}  # in the place of the versions that aiohttp would tell

Deliver = Callable[[Packet], None]
Failed = Callable[[Address, str], None]  # from where, and why; not of those who were not admitted


class Inbox:
    """An HTTP server for packets and, if datagrams are sealed, for sessions."""

    def __init__(
        self,
        deliver: Deliver,
        traffic: Traffic,
        max_stream: int,
        config: EndpointConfig,
        credentials: Credentials | None,
        sessions: Sessions | None,
        on_failed: Failed,
    ) -> None:
        self.traffic = traffic
        self.connections: dict[Connection, bytes] = {}  # and where each comes from
        self._deliver = deliver
        self._max_stream = max_stream
        self._config = config
        self._credentials = credentials
        self._sessions = sessions
        self._on_failed = on_failed
        self._pending = 0  # bytes of bodies that are not complete
        self._arriving: dict[Connection, asyncio.Task[None]] = {}  # the oldest first
        self._tasks: set[asyncio.Task[None]] = set()  # these, and those that were broken off
        self._from_one = Buckets[bytes](config.handshake_rate, config.handshake_burst)
        self._from_all = Buckets[None](config.handshake_rate_all, config.handshake_burst_all)
        self._asked = Buckets[PeerId](SESSION_RATE, SESSION_BURST)
        self._listener: socket.socket | None = None  # None: not open
        self._pause: asyncio.TimerHandle | None = None

    # life -----------------------------------------------------------------------------------------

    async def open(self, listener: socket.socket) -> None:
        """Serve; the socket listens already."""
        # A request whose connection is lost is over.
        self._http = web.Server(self._receive, handler_cancellation=True)
        self._listener = listener
        listener.setblocking(False)
        self._listen()

    async def close(self) -> None:
        """Break everything off."""
        assert self._listener is not None
        if self._pause is not None:
            self._pause.cancel()
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        self._listener = None
        await asyncio.sleep(0)  # or a socket that has no transport yet would stay open
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in list(self.connections):
            connection.socket.abort()  # whatever waits to be written
        for _ in range(3):
            await asyncio.sleep(0)  # TCP, TLS and HTTP learn of it one after the other
        await self._http.shutdown(1.0)

    # connections ----------------------------------------------------------------------------------

    def _listen(self) -> None:
        assert self._listener is not None
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        # No more than handshakes are allowed, so that one that is broken off has begun.
        for _ in range(min(ACCEPTS, self._config.most_handshakes)):
            if self._listener is None:
                return
            try:
                accepted, source = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in OUT_OF_ROOM:
                    raise
                log.warning("cannot accept connections for now: %s", error.strerror)
                loop.remove_reader(self._listener)
                self._pause = loop.call_later(ACCEPT_PAUSE, self._listen)
                return
            connection = Connection(self, self._http, Address(*source[:2]), self._config.idle)
            if self.admit(connection):
                task = loop.create_task(self._begin(connection, accepted))
                self._arriving[connection] = task
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                accepted.close()

    def admit(self, connection: Connection) -> bool:
        """Whether there may be one more connection from there."""
        host = ip_address(connection.peer.host)
        source = host.packed[:8]  # whoever has an IPv6 address has 2**64 of them
        same = sum(source == other for other in self.connections.values())
        if (
            len(self.connections) - self._unproven() >= self._config.most_connections
            or (same >= self._config.most_per_address and not host.is_loopback)
            or not self._affordable(connection.peer, source, exempt=host.is_loopback)
        ):
            self.traffic.dropped_in += 1
            return False
        if self._unproven() >= self._config.most_handshakes:
            self._break_off(next(iter(self._arriving)))
        self.connections[connection] = source
        return True

    def _affordable(self, peer: Address, source: bytes, *, exempt: bool) -> bool:
        if self._credentials is None or (exempt and self._config.exempt_loopback):
            return True
        now = asyncio.get_running_loop().time()
        allowed = self._from_one.take(source, now) and self._from_all.take(None, now)
        if not allowed:
            self._failed(peer, "there are too many")
        return allowed

    def _unproven(self) -> int:
        """Connections that have not shown yet that they belong to a member."""
        return 0 if self._credentials is None else len(self._arriving)

    async def _begin(self, connection: Connection, accepted: socket.socket) -> None:
        """Make a connection of a socket; it calls `begun`."""
        secure = self._credentials is not None
        why = "it was cut short"
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection,
                accepted,
                ssl=self._credentials.server if self._credentials else None,
                ssl_handshake_timeout=self._config.handshake if secure else None,
                ssl_shutdown_timeout=LINGER if secure else None,
            )
        except NotAdmitted:
            why = ""  # whoever decided so knows
        except OSError as error:  # TLS errors are some of them
            why = getattr(error, "verify_message", "") or str((error.args or [""])[-1])
            why = why or "the other end broke it off"
        finally:
            if connection in self._arriving:  # or it has begun, or was broken off
                self._give_up(connection, why)

    def _break_off(self, connection: Connection) -> None:
        # At once: its task takes some turns of the loop to end, in which others arrive.
        task = self._arriving[connection]
        self._give_up(connection, "too many began after it")
        task.cancel()

    def _give_up(self, connection: Connection, why: str) -> None:
        del self._arriving[connection]
        self.connections.pop(connection, None)
        self.traffic.dropped_in += 1
        if self._credentials is not None:
            self._failed(connection.peer, why)

    def _failed(self, source: Address, why: str) -> None:
        self.traffic.handshakes_failed += 1
        if why:
            self._on_failed(source, why)

    def begun(self, connection: Connection) -> bool:
        """Whether a connection on which data may flow is to stay."""
        waited = self._arriving.pop(connection, None) is not None
        if self._credentials is None:
            return waited
        connection.member = peer_of(connection.socket)
        self.traffic.handshakes += 1
        room = self._config.most_connections + self._unproven() - len(self.connections)
        return waited and room >= 0 and connection.member is not None

    def expel(self, member: PeerId) -> None:
        """Break off the connections of a member."""
        for connection in list(self.connections):
            if connection.member == member:
                connection.socket.abort()

    @property
    def queues(self) -> dict[str, int]:
        """How much of what is limited there is."""
        return {
            "connections": len(self.connections) - self._unproven(),
            "handshakes": self._unproven(),
            "body_bytes": self._pending,
        }

    # requests -------------------------------------------------------------------------------------

    def refuse(self, status: int) -> web.Response:
        """An answer after which the connection is closed."""
        self.traffic.dropped_in += 1
        response = web.Response(status=status, headers=NAME)
        response.force_close()
        return response

    async def _receive(self, request: web.BaseRequest) -> web.Response:
        most = {PACKET_PATH: self._max_stream}
        if self._sessions is not None:
            most[SESSION_PATH] = HALF_SIZE
        if request.method != "POST" or request.path not in most:
            return self.refuse(404)
        if request.content_length is None:
            return self.refuse(411)
        if request.content_length > most[request.path]:
            return self.refuse(413)
        body = BytesIO()  # grows with what arrives, whatever was announced; one copy, no more
        try:
            if not await self._read(request.content, body):
                return self.refuse(503)
        except TimeoutError:
            return self.refuse(408)
        except asyncio.CancelledError:
            self.traffic.dropped_in += 1
            raise
        finally:
            self._pending -= body.tell()
        sender = cast(Connection, request.protocol)
        if self._credentials is not None and peer_of(sender.socket) is None:
            return self.refuse(403)
        if request.path == SESSION_PATH:
            return self._answer(sender.member, body.getvalue())
        packet = Packet(sender.peer, body.getvalue(), Channel.STREAM, sender.member)
        asyncio.get_running_loop().call_soon(self._deliver, packet)  # what it raises is not HTTP's
        return web.Response(status=204, headers=NAME)

    def _answer(self, member: PeerId | None, body: bytes) -> web.Response:
        assert self._sessions is not None
        assert member is not None
        now = asyncio.get_running_loop().time()
        if not self._asked.take(member, now):
            return self.refuse(429)
        try:
            theirs = Half.decode(body)
        except ValueError:
            return self.refuse(400)
        ours = self._sessions.answer(member, theirs, now)
        return web.Response(body=ours.encode(), headers=NAME)

    async def _read(self, content: Any, body: BytesIO) -> bool:
        """Read to the end; False if all bodies together take too much. Raises TimeoutError."""
        now = asyncio.get_running_loop().time
        began = now()
        async with asyncio.timeout(self._config.stall) as alarm:
            while chunk := await content.readany():
                body.write(chunk)
                self._pending += len(chunk)
                if self._pending > self._config.pending_bytes:
                    return False
                alarm.reschedule(self._config.deadline(began, now(), body.tell()))
        return True


class Connection(web.RequestHandler):
    """aiohttp's connection, of which there are only so many, and which is silent about bad HTTP."""

    def __init__(self, inbox: Inbox, server: web.Server, peer: Address, idle: float) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=idle,
            access_log=None,  # type: ignore[arg-type]
            lingering_time=LINGER,
            auto_decompress=False,  # or a small body could become a big one
            max_line_size=HEADER,
            max_field_size=HEADER,
            max_headers=HEADERS,
        )
        self._inbox = inbox
        self.peer = peer
        self.member: PeerId | None = None  # who it is, proven by the handshake

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.socket = cast(asyncio.Transport, transport)
        if self._inbox.begun(self):
            super().connection_made(transport)
        else:
            self._inbox.traffic.dropped_in += 1
            self.socket.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._inbox.connections.pop(self, None)
        super().connection_lost(exc)

    def handle_error(self, *args: Any, **kwargs: Any) -> web.StreamResponse:
        self._inbox.traffic.dropped_in += 1
        response = super().handle_error(*args, **kwargs)
        response.headers.update(NAME)
        return response

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        if not isinstance(kwargs.get("exc_info"), PEER_AT_FAULT):
            super().log_exception(*args, **kwargs)
