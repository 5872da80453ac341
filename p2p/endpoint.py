"""I/O: one port number for UDP and TCP; packets go in, packets come out.

A datagram is a UDP datagram. A stream is one HTTP request, `POST /v1/packet`: its body is the
packet, its answer is 204 as soon as all of it has arrived. Nothing here knows a message.

Both ports are open to strangers, so everything that one of them can make us keep has a limit:
connections in all and from one address, header bytes, bytes of a body and of all bodies together,
and time. One rule of time holds in both directions: a body must not stand still for `stall`
seconds, and over its whole length it must not be slower than `slowest`. What a stranger gets wrong
is counted and not logged. Nothing is repeated here: whoever needs a packet to arrive does that.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, aclosing
from functools import lru_cache
from io import BytesIO
from ipaddress import ip_address
from typing import Any, cast

import aiohttp
from aiohttp import http, web

from p2p.errors import P2PError, PortInUse
from p2p.packet import MAX_DATAGRAM, MAX_STREAM, Channel, Packet
from p2p.peer import Address
from p2p.traffic import EndpointConfig, Traffic

log = logging.getLogger(__name__)
PATH = "/v1/packet"
CHUNK = 256 << 10  # bytes handed to TCP at a time
DRAIN = 64  # datagrams per wake-up; 3.6 times as fast as asyncio: benchmarks/endpoint.py
RECEIVE_BUFFER = 4 << 20  # bytes the kernel may hold while we are busy; it may grant less
PORT_ATTEMPTS = 16  # to find a number that is free for both UDP and TCP
HEADER, HEADERS = 1024, 32  # bytes of one header line, and how many there may be
LINGER = 1.0  # seconds for which a refused body is read and thrown away, so that the answer arrives
UNREACHABLE = (aiohttp.ClientError, OSError, TimeoutError)
PEER_AT_FAULT = (http.HttpProcessingError, web.RequestPayloadError, ConnectionError)
NAME = {"Server": "p2p"}  # in the place of the versions that aiohttp would tell

Deliver = Callable[[Packet], None]
_DEFAULTS = EndpointConfig()


class Endpoint:
    """Two sockets with one port number.

    Args:
        on_packet: called on the event loop with every packet that arrives. What it raises goes to
            the loop's exception handler, and the endpoint goes on.
        max_stream: bytes; a longer stream is refused.
    """

    def __init__(
        self,
        on_packet: Deliver,
        *,
        max_stream: int = MAX_STREAM,
        config: EndpointConfig = _DEFAULTS,
    ) -> None:
        self.traffic = Traffic()
        self._on_packet = on_packet
        self._udp: socket.socket | None = None  # None: not open
        self._config = config
        self._inbox = _Inbox(self._deliver, self.traffic, max_stream, config)

    async def open(self, listen: Address) -> Address:
        """Listen, and say where; port 0 means any that is free. IPv6 listens to IPv6 only.

        Raises:
            PortInUse: for UDP or TCP.
            P2PError: the host is no IP address of this machine, or the port is privileged.
        """
        udp, tcp = _bind(listen)
        try:
            await self._inbox.open(tcp)
        except BaseException:
            udp.close()
            tcp.close()
            raise
        self._udp = udp
        self._outbox = _Outbox(self.traffic, self._config)
        asyncio.get_running_loop().add_reader(udp, self._on_readable)
        return Address(listen.host, udp.getsockname()[1])

    async def close(self) -> None:
        """Close everything. Datagrams have left already; streams on their way are broken off."""
        if self._udp is None:
            return
        asyncio.get_running_loop().remove_reader(self._udp)
        self._udp.close()
        self._udp = None
        await self._outbox.close()
        await self._inbox.close()

    def send(self, packet: Packet) -> None:
        """Send a packet, or drop and count it; never waits.

        Dropped: a datagram that the kernel has no room for; a stream when too much waits already,
        or when the very same bytes wait already; anything to a host that is not an IP address of
        the family we listen on, or while the endpoint is not open.

        Raises:
            ValueError: a datagram above MAX_DATAGRAM.
        """
        if self._udp is None or _family(packet.address.host) != self._udp.family:
            self.traffic.dropped_out += 1
        elif packet.channel is Channel.STREAM:
            self._outbox.put(packet.address, packet.data)
        elif len(packet.data) > MAX_DATAGRAM:
            raise ValueError(f"{len(packet.data)} bytes are above {MAX_DATAGRAM}; send a stream")
        else:
            try:
                self._udp.sendto(packet.data, packet.address)
            except OSError:
                self.traffic.dropped_out += 1
            else:
                self.traffic.sent(len(packet.data))

    def _on_readable(self) -> None:
        for _ in range(DRAIN):
            if self._udp is None:
                return  # a packet made somebody close us
            try:
                data, source = self._udp.recvfrom(MAX_DATAGRAM + 1)
            except OSError:  # nothing left, or ICMP about one that we sent
                return
            if len(data) > MAX_DATAGRAM:
                self.traffic.dropped_in += 1
            else:
                self._deliver(Packet(Address(source[0], source[1]), data, Channel.DATAGRAM))

    def _deliver(self, packet: Packet) -> None:
        if self._udp is not None:
            self.traffic.received(len(packet.data))
            self._on_packet(packet)


@lru_cache(4096)
def _family(host: str) -> socket.AddressFamily | None:
    """Of an IP address; None for a name, which would have to be looked up."""
    try:
        return socket.AF_INET if ip_address(host).version == 4 else socket.AF_INET6
    except ValueError:
        return None


def _bind(listen: Address) -> tuple[socket.socket, socket.socket]:
    """A UDP and a listening TCP socket with one port number."""
    left = 1 if listen.port else PORT_ATTEMPTS
    while True:
        try:
            return _bind_once(listen)
        except OSError as error:
            left -= 1
            if error.errno != errno.EADDRINUSE:
                raise P2PError(
                    f"cannot listen on {listen}: {os.strerror(error.errno or 0)}; give --listen "
                    "HOST:PORT with an address of this machine and a port above 1023"
                ) from error
            if not left:
                raise PortInUse(
                    f"{listen} is taken: another process listens there, by TCP or UDP; give "
                    "another --listen HOST:PORT"
                ) from error


def _bind_once(listen: Address) -> tuple[socket.socket, socket.socket]:
    family = _family(listen.host)
    if family is None:
        raise P2PError(f"cannot listen on {listen}: {listen.host!r} is not an IP address")
    with ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(listen, family=family))
        udp = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        if family == socket.AF_INET6:
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        udp.setblocking(False)
        udp.bind((listen.host, tcp.getsockname()[1]))
        stack.pop_all()
    return udp, tcp


class _Outbox:
    """Streams that wait, in one lane for each destination; a lane sends one at a time.

    What does not fit is dropped, rather than what waits: that may be on its way already. When a
    destination fails, all that waits for it is dropped.
    """

    def __init__(self, traffic: Traffic, config: EndpointConfig) -> None:
        self._traffic = traffic
        self._config = config
        self._lanes: dict[Address, deque[bytes]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._config.connect),
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        )

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._traffic.dropped_out += sum(map(len, self._lanes.values()))  # of tasks never begun
        await self._session.close()

    def put(self, address: Address, data: bytes) -> None:
        lane = self._lanes.get(address, deque())
        if not self._fits(lane, data):
            self._traffic.dropped_out += 1
            return
        lane.append(data)
        if address not in self._lanes:
            self._lanes[address] = lane
            task = asyncio.create_task(self._empty(address))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _fits(self, lane: deque[bytes], data: bytes) -> bool:
        pending = sum(len(waiting) for lane in self._lanes.values() for waiting in lane)
        return (
            (bool(lane) or len(self._lanes) < self._config.most_connections)
            and len(lane) < self._config.most_waiting
            and sum(map(len, lane)) < self._config.lane_bytes
            and pending + len(data) <= self._config.pending_bytes
            and data not in lane
        )

    async def _empty(self, address: Address) -> None:
        lane = self._lanes[address]
        try:
            while lane:
                status = await self._post(address, lane[0])
                size = len(lane.popleft())
                if status == 204:
                    self._traffic.sent(size)
                else:
                    self._traffic.dropped_out += 1
                    log.debug("%s refused a stream of %d bytes: %d", address, size, status)
        except UNREACHABLE as error:
            log.debug("no stream to %s, %d dropped: %r", address, len(lane), error)
        finally:
            self._traffic.dropped_out += len(lane)
            del self._lanes[address]

    async def _post(self, address: Address, data: bytes) -> int:
        url = f"http://{address}{PATH}"
        headers = {"Content-Length": str(len(data))}
        async with (
            asyncio.timeout(self._config.stall) as alarm,
            aclosing(self._cut(data, alarm)) as chunks,
            # Following a redirect would let a peer choose whom we talk to.
            self._session.post(url, data=chunks, headers=headers, allow_redirects=False) as answer,
        ):
            return answer.status

    async def _cut(self, data: bytes, alarm: asyncio.Timeout) -> AsyncGenerator[memoryview, None]:
        # One piece would be copied as a whole, and we could not see it move.
        view, now = memoryview(data), asyncio.get_running_loop().time
        began = now()
        for start in range(0, len(view), CHUNK):
            alarm.reschedule(self._config.deadline(began, now(), start))
            yield view[start : start + CHUNK]


class _Inbox:
    """An HTTP server for one kind of request."""

    def __init__(
        self, deliver: Deliver, traffic: Traffic, max_stream: int, config: EndpointConfig
    ) -> None:
        self.traffic = traffic
        self._deliver = deliver
        self._max_stream = max_stream
        self._config = config
        self._pending = 0  # bytes of bodies that are not complete
        self.connections: dict[_Connection, bytes] = {}  # and where each comes from

    async def open(self, listener: socket.socket) -> None:
        # A request whose connection is lost is over.
        self._http = web.Server(self._receive, handler_cancellation=True)
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Connection(self, self._http, self._config.idle), sock=listener
        )

    async def close(self) -> None:
        self._server.close()
        for connection in list(self.connections):
            connection.socket.abort()  # whatever waits to be written
        await asyncio.sleep(0)  # they learn of it in the next turn of the loop
        await self._http.shutdown(1.0)

    def admit(self, connection: _Connection) -> bool:
        """Whether there may be one more connection from there."""
        host = ip_address(connection.peer.host)
        source = host.packed[:8]  # whoever has an IPv6 address has 2**64 of them
        same = sum(source == other for other in self.connections.values())
        if (
            not self._server.is_serving()  # accepted just before we closed
            or len(self.connections) >= self._config.most_connections
            or (same >= self._config.most_per_address and not host.is_loopback)
        ):
            self.traffic.dropped_in += 1
            return False
        self.connections[connection] = source
        return True

    def refuse(self, status: int) -> web.Response:
        """An answer after which the connection is closed."""
        self.traffic.dropped_in += 1
        response = web.Response(status=status, headers=NAME)
        response.force_close()
        return response

    async def _receive(self, request: web.BaseRequest) -> web.Response:
        if request.method != "POST" or request.path != PATH:
            return self.refuse(404)
        if request.content_length is None:
            return self.refuse(411)
        if request.content_length > self._max_stream:
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
        sender = cast(_Connection, request.protocol).peer
        packet = Packet(sender, body.getvalue(), Channel.STREAM)
        asyncio.get_running_loop().call_soon(self._deliver, packet)  # what it raises is not HTTP's
        return web.Response(status=204, headers=NAME)

    async def _read(self, content: aiohttp.StreamReader, body: BytesIO) -> bool:
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


class _Connection(web.RequestHandler):
    """aiohttp's connection, of which there are only so many, and which is silent about bad HTTP."""

    def __init__(self, inbox: _Inbox, server: web.Server, idle: float) -> None:
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

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.peer = Address(*transport.get_extra_info("peername")[:2])
        self.socket = cast(asyncio.Transport, transport)
        if self._inbox.admit(self):
            super().connection_made(transport)
        else:
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
