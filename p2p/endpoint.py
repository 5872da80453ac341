"""I/O: one port number for UDP and TCP; packets go in, packets come out.

A datagram is a UDP datagram. A stream is one HTTP request, `POST /v1/packet`: its body is the
packet, its answer is 204 as soon as all of it has arrived. Or it travels in datagrams as well, if
it is short or TCP fails (`p2p.paths` decides, `p2p.courier` carries). Nothing here knows a message.

With credentials everything is encrypted, and everybody's identity proven: streams are requests
inside TLS (`p2p.certificates`), datagrams are sealed (`p2p.seal`) in sessions that are made by one
more request, `POST /v1/session`. Strangers then get no answer by UDP, and by TCP a handshake that
fails. Without credentials it is for one's own machine.

Both ports are open to strangers, so everything that one of them can make us keep has a limit:
connections in all and from one address, header bytes, bytes of a body and of all bodies together,
and time. One rule of time holds in both directions: a body must not stand still for `stall`
seconds, and over its whole length it must not be slower than `slowest`. What a stranger gets wrong
is counted and not logged. A packet that is dropped is not repeated here: whoever needs it to arrive
does that.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from functools import lru_cache
from ipaddress import ip_address
from math import inf

from p2p.certificates import Credentials
from p2p.courier import Arrived, Courier, Delivered, Event, GivenUp
from p2p.dialler import Dialler
from p2p.errors import P2PError, PortInUse
from p2p.frames import is_frame
from p2p.inbox import Deliver, Failed, Inbox
from p2p.outbox import CHUNK, Client, Outbox
from p2p.packet import MAX_DATAGRAM, MAX_STREAM, Channel, Packet
from p2p.paths import Paths
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
        self._courier = Courier(config.courier, max_stream, secrets.token_bytes)
        self._paths = Paths(config.short_stream, config.try_again)
        self._alarm: asyncio.TimerHandle | None = None
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
        self._outbox = Outbox(self._client, self.traffic, self._config, self._detour)
        if self._sessions is not None:
            self._dialler = Dialler(
                self._client, self._sessions, self.traffic, self._config, self._send_datagram
            )
        asyncio.get_running_loop().add_reader(udp, self._on_readable)
        return Address(listen.host, udp.getsockname()[1])

    async def close(self) -> None:
        """Close everything. Datagrams have left already; streams on their way are broken off."""
        if self._udp is None:
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self.traffic.dropped_out += self._courier.waiting
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
    def streams_waiting(self) -> int:
        """Streams in datagrams that are not known to have arrived."""
        return self._courier.waiting

    @property
    def bytes_waiting(self) -> int:
        """Bytes of these streams."""
        return self._courier.waiting_bytes

    @property
    def queues(self) -> dict[str, int]:
        """How long everything is whose length `EndpointConfig` limits; empty while not open."""
        if self._udp is None:
            return {}
        return (
            {"unsealed": self.waiting}
            | self._courier.queues
            | self._outbox.queues
            | self._inbox.queues
        )

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
            ValueError: a datagram above MAX_DATAGRAM, or one that would be taken for a fragment.
        """
        # Without credentials nobody proves who he is, so there is no difference to be made.
        peer = None if self._credentials is None else packet.peer
        to = Destination(packet.address, peer)
        if self._udp is None or _family(packet.address.host) != self._udp.family:
            self.traffic.dropped_out += 1
        elif packet.channel is Channel.STREAM:
            self._send_stream(to, packet.data)
        elif len(packet.data) > MAX_DATAGRAM:
            raise ValueError(f"{len(packet.data)} bytes are above {MAX_DATAGRAM}; send a stream")
        elif is_frame(packet.data):
            raise ValueError("a datagram that begins with 0xc1 is no message; send a stream")
        elif self._config.transport == "tcp":
            self._outbox.put(to, packet.data)
        else:
            self._send_datagram(to, packet.data)

    # streams --------------------------------------------------------------------------------------

    def _send_stream(self, to: Destination, data: bytes) -> None:
        now = asyncio.get_running_loop().time()
        match self._config.transport:
            case "udp":
                self._carry(to, data, self._config.stall)
            case "auto" if self._paths.by_datagrams(self._key(to), len(data), now):
                refused = self._paths.refuses(self._key(to), now)
                self._carry(to, data, self._config.stall if refused else self._config.give_way)
            case _:
                self._outbox.put(to, data)

    def _carry(self, to: Destination, data: bytes, patience: float) -> None:
        if self._sessions is not None:
            to = Destination(to.address, self._sessions.peer_at(to))
        now = asyncio.get_running_loop().time()
        if self._courier.send(to, data, patience, now):
            self._pump()
        else:
            self.traffic.dropped_out += 1

    def _detour(self, to: Destination, data: bytes) -> bool:
        """TCP does not reach it."""
        key, now = self._key(to), asyncio.get_running_loop().time()
        self._paths.failed(key, now)
        if self._udp is None or self._config.transport != "auto":
            return False
        if around := self._paths.answers(key, now):
            self._carry(to, data, self._config.stall)
        return around

    def _follow(self, events: Sequence[Event], source: Destination | None = None) -> None:
        """Do what the courier's events ask for."""
        loop = asyncio.get_running_loop()
        for event in events:
            match event:
                case Arrived(data):
                    assert source is not None
                    packet = Packet(source.address, data, Channel.STREAM, source.peer)
                    loop.call_soon(self._hand_on, packet)  # what it raises is not the courier's
                case Delivered():
                    self.traffic.packets_sent += 1
                case GivenUp(to, data):
                    self._paths.stalled(self._key(to), loop.time())
                    refused = self._paths.refuses(self._key(to), loop.time())
                    if self._config.transport == "auto" and not refused:
                        self._outbox.put(to, data)
                    else:
                        self.traffic.dropped_out += 1

    def _pump(self) -> None:
        """Send what the courier has to send, and arm its timer anew."""
        loop = asyncio.get_running_loop()
        while self._udp is not None:
            now = loop.time()
            out = self._courier.poll_transmit(now)
            if out is None:
                break
            self._send_datagram(*out)
        due = self._courier.next_timeout()
        if self._alarm is not None:
            if self._alarm.when() == due:
                return
            self._alarm.cancel()
            self._alarm = None
        if due < inf and self._udp is not None:
            self._alarm = loop.call_at(due, self._on_alarm)

    def _on_alarm(self) -> None:
        self._alarm = None
        self._follow(self._courier.handle_timeout(asyncio.get_running_loop().time()))
        self._pump()

    def _key(self, to: Destination) -> PeerId | Address:
        peer = None if self._sessions is None else self._sessions.peer_at(to)
        return peer or to.address

    # datagrams ------------------------------------------------------------------------------------

    def _send_datagram(self, to: Destination, data: bytes) -> None:
        if self._sessions is None:
            self._transmit(data, to.address, to, data)
            return
        sealed = self._sessions.seal(to, data, asyncio.get_running_loop().time())
        if sealed is None:
            self._dialler.hold(to, data)
            return
        self._transmit(sealed.data, sealed.to, to, data)
        if sealed.dial is not None:
            self._dialler.dial(sealed.dial)

    def _transmit(self, datagram: bytes, address: Address, to: Destination, data: bytes) -> None:
        if self._udp is None:
            self.traffic.dropped_out += 1
            return
        try:
            self._udp.sendto(datagram, address)
        except OSError:
            self.traffic.dropped_out += not is_frame(data)  # or it is sent again
            return
        self._paths.sent(self._key(to), asyncio.get_running_loop().time())
        if is_frame(data):
            self.traffic.bytes_sent += len(data)
        else:
            self.traffic.sent(len(data))

    def _on_readable(self) -> None:
        try:
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
        finally:
            self._pump()  # once, so that one receipt serves for all that was there

    def _on_datagram(self, data: bytes, source: Address) -> None:
        now = asyncio.get_running_loop().time()
        peer = None
        if self._sessions is not None:
            opened = self._sessions.open(data, source, now)
            if opened is None:
                self.traffic.dropped_in += 1
                self.traffic.unopened += 1
                return
            peer, data = opened
        self._paths.heard(peer or source, now)
        if not is_frame(data):
            self._deliver(Packet(source, data, Channel.DATAGRAM, peer))
        elif self._config.transport == "tcp":
            self.traffic.dropped_in += 1  # what we cannot acknowledge does not arrive
        else:
            self.traffic.bytes_received += len(data)
            origin = Destination(source, peer)
            self._follow(self._courier.receive(origin, data, now), origin)

    def _deliver(self, packet: Packet) -> None:
        if self._udp is not None:
            self.traffic.received(len(packet.data))
            self._on_packet(packet)

    def _hand_on(self, packet: Packet) -> None:
        """Deliver a packet whose bytes were counted as they came."""
        if self._udp is not None:
            self.traffic.packets_received += 1
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
