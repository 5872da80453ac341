"""I/O: one port number for UDP and TCP; packets go in, packets come out.

A datagram is a UDP datagram. A stream is one HTTP request, `POST /v1/packet`: its body is the
packet, its answer is 204 as soon as all of it has arrived. Nothing here knows a message.

With credentials everything is encrypted, and everybody's identity proven: streams are requests
inside TLS (`p2p.certificates`), datagrams are sealed (`p2p.seal`) in sessions that are made by one
more request, `POST /v1/session`. Strangers then get no answer by UDP, and by TCP a handshake that
fails. Without credentials it is for one's own machine.

Both ports are open to strangers, so everything that one of them can make us keep has a limit:
connections in all and from one address, header bytes, bytes of a body and of all bodies together,
and time. One rule of time holds in both directions: a body must not stand still for `stall`
seconds, and over its whole length it must not be slower than `slowest`. What a stranger gets wrong
is counted and not logged. Nothing is repeated here: whoever needs a packet to arrive does that.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import socket
from contextlib import ExitStack
from functools import lru_cache
from ipaddress import ip_address

from p2p.certificates import Credentials
from p2p.dialler import Dialler
from p2p.errors import P2PError, PortInUse
from p2p.inbox import Deliver, Failed, Inbox
from p2p.outbox import CHUNK, Client, Outbox
from p2p.packet import MAX_DATAGRAM, MAX_STREAM, Channel, Packet
from p2p.peer import Address, PeerId
from p2p.seal import OVERHEAD
from p2p.sessions import Destination, Sessions
from p2p.traffic import EndpointConfig, Traffic

__all__ = ["CHUNK", "Endpoint"]

DRAIN = 64  # datagrams per wake-up; 3.6 times as fast as asyncio: benchmarks/endpoint.py
RECEIVE_BUFFER = 4 << 20  # bytes the kernel may hold while we are busy; it may grant less
PORT_ATTEMPTS = 16  # to find a number that is free for both UDP and TCP

_DEFAULTS = EndpointConfig()


class Endpoint:
    """Two sockets with one port number.

    Args:
        on_packet: called on the event loop with every packet that arrives. What it raises goes to
            the loop's exception handler, and the endpoint goes on.
        max_stream: bytes; a longer stream is refused.
        credentials: who we are and which network we belong to. None: packets travel in the clear,
            from and to anybody.
        on_failed: called with every inbound handshake that fails: from where, and why. Whom the
            credentials do not admit is left out; they know.
    """

    def __init__(
        self,
        on_packet: Deliver,
        *,
        max_stream: int = MAX_STREAM,
        config: EndpointConfig = _DEFAULTS,
        credentials: Credentials | None = None,
        on_failed: Failed = lambda source, why: None,
    ) -> None:
        self.traffic = Traffic()
        self._on_packet = on_packet
        self._udp: socket.socket | None = None  # None: not open
        self._config = config
        self._credentials = credentials
        self._sessions: Sessions | None = None
        self._longest = MAX_DATAGRAM
        if credentials is not None:
            me = credentials.identity.id
            self._sessions = Sessions(me, config.sessions, secrets.token_bytes)
            self._longest += OVERHEAD
        self._inbox = Inbox(
            self._deliver, self.traffic, max_stream, config, credentials, self._sessions, on_failed
        )

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
        self._client = Client(self._config, self._credentials)
        self._outbox = Outbox(self._client, self.traffic, self._config)
        if self._sessions is not None:
            self._dialler = Dialler(
                self._client, self._sessions, self.traffic, self._config, self._send_sealed
            )
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
        if self._sessions is not None:
            await self._dialler.close()
        await self._client.close()
        await self._inbox.close()

    @property
    def waiting(self) -> int:
        """Datagrams that wait for a session."""
        return 0 if self._sessions is None or self._udp is None else self._dialler.waiting

    @property
    def queues(self) -> dict[str, int]:
        """How long everything is whose length `EndpointConfig` limits; empty while not open."""
        if self._udp is None:
            return {}
        return {"unsealed": self.waiting} | self._outbox.queues | self._inbox.queues

    def expel(self, peer: PeerId) -> None:
        """Forget the sessions with a peer and break off its connections. It may come back, unless
        the credentials do not admit it."""
        if self._sessions is not None:
            self._sessions.forget(peer)
        self._inbox.expel(peer)

    def send(self, packet: Packet) -> None:
        """Send a packet, or drop and count it; never waits.

        Dropped: a datagram that the kernel has no room for, or whose destination gives us no
        session; a stream when too much waits already, or when the very same bytes wait already;
        anything to a host that is not an IP address of the family we listen on, or while the
        endpoint is not open.

        Raises:
            ValueError: a datagram above MAX_DATAGRAM.
        """
        # Without credentials nobody proves who he is, so there is no difference to be made.
        peer = None if self._credentials is None else packet.peer
        to = Destination(packet.address, peer)
        if self._udp is None or _family(packet.address.host) != self._udp.family:
            self.traffic.dropped_out += 1
        elif packet.channel is Channel.STREAM:
            self._outbox.put(to, packet.data)
        elif len(packet.data) > MAX_DATAGRAM:
            raise ValueError(f"{len(packet.data)} bytes are above {MAX_DATAGRAM}; send a stream")
        elif self._sessions is None:
            self._transmit(packet.data, packet.address, len(packet.data))
        else:
            self._send_sealed(to, packet.data)

    def _send_sealed(self, to: Destination, data: bytes) -> None:
        assert self._sessions is not None
        sealed = self._sessions.seal(to, data, asyncio.get_running_loop().time())
        if sealed is None:
            self._dialler.hold(to, data)
            return
        self._transmit(sealed.data, sealed.to, len(data))
        if sealed.dial is not None:
            self._dialler.dial(sealed.dial)

    def _transmit(self, datagram: bytes, to: Address, size: int) -> None:
        if self._udp is None:
            self.traffic.dropped_out += 1
            return
        try:
            self._udp.sendto(datagram, to)
        except OSError:
            self.traffic.dropped_out += 1
        else:
            self.traffic.sent(size)

    def _on_readable(self) -> None:
        for _ in range(DRAIN):
            if self._udp is None:
                return  # a packet made somebody close us
            try:
                data, source = self._udp.recvfrom(self._longest + 1)
            except OSError:  # nothing left, or ICMP about one that we sent
                return
            if len(data) > self._longest:
                self.traffic.dropped_in += 1
            else:
                self._on_datagram(data, Address(source[0], source[1]))

    def _on_datagram(self, data: bytes, source: Address) -> None:
        if self._sessions is None:
            self._deliver(Packet(source, data, Channel.DATAGRAM))
            return
        opened = self._sessions.open(data, source, asyncio.get_running_loop().time())
        if opened is None:
            self.traffic.dropped_in += 1
            self.traffic.unopened += 1
        else:
            self._deliver(Packet(source, opened[1], Channel.DATAGRAM, opened[0]))

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
