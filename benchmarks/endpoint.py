"""How near an endpoint comes to what is beneath it: python benchmarks/endpoint.py [--check]

Everything runs on loopback, in one process, one after the other, several times in turn; the best
of each counts. Only ratios within one run mean something: "of the floor" compares with the same
bytes through bare sockets, one system call for each datagram and no event loop, and sessions with
the same handshakes between two TLS objects in memory.

The last column compares processor time, both ends together, which others on the same machine
hardly change. With --check it must not be below the gate behind it, which is about half of the
lowest that runs on an idle and on a busy machine have shown.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Literal, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from p2p.certificates import ANY_MEMBER, Credentials
from p2p.endpoint import CHUNK, Endpoint
from p2p.identity import Identity
from p2p.network_key import NetworkKey
from p2p.packet import MAX_DATAGRAM, Channel, Packet
from p2p.peer import Address
from p2p.traffic import EndpointConfig

LOCAL = Address("127.0.0.1", 0)
BURST = 50  # datagrams sent before they are read: less than the smallest kernel buffer holds
BURSTS = 200
STREAM = 64 << 20  # bytes
ROUNDS = 3
PAYLOAD = bytes(MAX_DATAGRAM)
HANDSHAKES = 40
KEY = NetworkKey(bytes(32))


class Rate(NamedTuple):
    """How much of something is done."""

    second: float
    processor_second: float


class Watch:
    """Runs from when it is made."""

    def __init__(self) -> None:
        self._began = perf_counter(), process_time()

    def rate(self, amount: int) -> Rate:
        """What has been done until now."""
        seconds, spent = perf_counter() - self._began[0], process_time() - self._began[1]
        return Rate(amount / seconds, amount / spent)


async def bare_datagrams() -> Rate:
    """Datagrams a second through two blocking sockets: the floor."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as target,
    ):
        target.bind(LOCAL)
        address = target.getsockname()
        watch = Watch()
        for _ in range(BURSTS):
            for _ in range(BURST):
                source.sendto(PAYLOAD, address)
            for _ in range(BURST):
                target.recvfrom(MAX_DATAGRAM)
        return watch.rate(BURSTS * BURST)


class Gate:
    """Opens each time that a burst is complete."""

    def __init__(self) -> None:
        self._seen = 0
        self._whole = asyncio.Event()
        self.first = asyncio.Event()

    def take(self, packet: object = None) -> None:
        self._seen += 1
        self.first.set()
        if self._seen % BURST == 0:
            self._whole.set()

    def forget(self) -> None:
        """What came so far was not part of it."""
        self._seen = 0

    async def burst(self) -> None:
        await asyncio.wait_for(self._whole.wait(), 5)
        self._whole.clear()


class Protocol(asyncio.DatagramProtocol):
    """asyncio's own way to receive."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        self._gate.take()


async def asyncio_datagrams() -> Rate:
    """Datagrams a second through two of asyncio's datagram endpoints."""
    loop, gate = asyncio.get_running_loop(), Gate()
    target, _ = await loop.create_datagram_endpoint(lambda: Protocol(gate), local_addr=LOCAL)
    source, _ = await loop.create_datagram_endpoint(lambda: Protocol(gate), local_addr=LOCAL)
    address = target.get_extra_info("sockname")
    watch = Watch()
    for _ in range(BURSTS):
        for _ in range(BURST):
            source.sendto(PAYLOAD, address)
        await gate.burst()
    rate = watch.rate(BURSTS * BURST)
    source.close()
    target.close()
    return rate


def credentials(private: bool) -> Credentials | None:
    """Of a new member of the one network, or None."""
    return Credentials(Identity.generate(), [KEY]) if private else None


async def endpoint_datagrams(private: bool = False) -> Rate:
    """Datagrams a second through two endpoints; sealed in a private network."""
    gate = Gate()
    source = Endpoint(gate.take, credentials=credentials(private))
    target = Endpoint(gate.take, credentials=credentials(private))
    await source.open(LOCAL)
    packet = Packet(await target.open(LOCAL), PAYLOAD, Channel.DATAGRAM)
    if private:  # the first datagram waits for the session to be made
        source.send(packet)
        await gate.first.wait()
        gate.forget()
    watch = Watch()
    for _ in range(BURSTS):
        for _ in range(BURST):
            source.send(packet)
        await gate.burst()
    rate = watch.rate(BURSTS * BURST)
    await source.close()
    await target.close()
    return rate


async def bare_stream() -> Rate:
    """Bytes a second through a pair of blocking TCP sockets, a thread at each end: the floor."""
    data = memoryview(bytes(STREAM))
    with (
        socket.create_server(LOCAL) as listener,
        socket.create_connection(listener.getsockname()) as source,
        listener.accept()[0] as target,
    ):
        sender = threading.Thread(target=source.sendall, args=(data,))
        left = memoryview(bytearray(STREAM))
        watch = Watch()
        sender.start()
        while left:
            left = left[target.recv_into(left[:CHUNK]) :]
        sender.join()
        return watch.rate(STREAM)


async def endpoint_stream(transport: Literal["tcp", "udp"] = "tcp", private: bool = False) -> Rate:
    """Bytes a second through two endpoints, one packet, over a connection that is made first."""
    arrived: asyncio.Queue[int] = asyncio.Queue()
    config = EndpointConfig(transport=transport)
    source = Endpoint(print, config=config, credentials=credentials(private))
    target = Endpoint(
        lambda packet: arrived.put_nowait(len(packet.data)),
        config=config,
        credentials=credentials(private),
    )
    await source.open(LOCAL)
    address = await target.open(LOCAL)
    source.send(Packet(address, b"warm", Channel.STREAM))
    await arrived.get()
    packet = Packet(address, bytes(STREAM), Channel.STREAM)
    watch = Watch()
    source.send(packet)
    assert await arrived.get() == STREAM
    rate = watch.rate(STREAM)
    await source.close()
    await target.close()
    return rate


async def bare_handshakes() -> Rate:
    """Handshakes a second between two TLS objects in memory, each end proving itself: the floor."""
    mine, theirs = credentials(True), credentials(True)
    assert mine is not None
    assert theirs is not None
    watch = Watch()
    for _ in range(HANDSHAKES):
        up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
        ends = [
            mine.client.wrap_bio(down, up, server_hostname=ANY_MEMBER),
            theirs.server.wrap_bio(up, down, server_side=True),
        ]
        while ends:
            for end in list(ends):
                with suppress(ssl.SSLWantReadError):
                    end.do_handshake()
                    ends.remove(end)
    return watch.rate(HANDSHAKES)


async def handshakes() -> Rate:
    """Sessions a second that one endpoint makes with new ones, each by a TLS handshake."""
    arrived: asyncio.Queue[Packet] = asyncio.Queue()
    target = Endpoint(arrived.put_nowait, credentials=credentials(True))
    address = await target.open(LOCAL)
    sources = [Endpoint(print, credentials=credentials(True)) for _ in range(HANDSHAKES)]
    for source in sources:
        await source.open(LOCAL)
    watch = Watch()
    for source in sources:
        source.send(Packet(address, b"hello", Channel.DATAGRAM))
        await arrived.get()
    rate = watch.rate(HANDSHAKES)
    for endpoint in (*sources, target):
        await endpoint.close()
    return rate


Way = tuple[str, Callable[[], Awaitable[Rate]], float]  # what it is called, and its gate


async def compare(title: str, unit: str, scale: float, *ways: Way) -> list[str]:
    """Run the ways in turn, the floor first, and print the best of each; what misses its gate."""
    best = {name: Rate(0.0, 0.0) for name, _, _ in ways}
    for _ in range(ROUNDS):
        for name, way, _ in ways:
            best[name] = Rate(*map(max, best[name], await way()))
    floor = best[ways[0][0]]
    print(f"{title:34}{unit:>16}{'of the floor':>15}{'by processor':>15}{'gate':>7}")
    missed = []
    for name, _, gate in ways:
        rate, share = best[name].second, best[name].processor_second / floor.processor_second
        line = f"  {name:32}{rate / scale:16,.0f}{rate / floor.second:15.0%}{share:15.1%}"
        print(line + (f"{gate:7.1%}" if gate else ""))
        if share < gate:
            missed.append(f"{title}, {name}: {share:.1%} of the floor, below {gate:.1%}")
    return missed


async def main() -> list[str]:
    """Print the tables; what misses its gate."""
    missed = await compare(
        f"datagrams of {MAX_DATAGRAM} bytes",
        "per second",
        1,
        ("bare sockets, blocking", bare_datagrams, 0.0),
        ("asyncio.DatagramProtocol", asyncio_datagrams, 0.0),
        ("Endpoint", endpoint_datagrams, 0.21),
        ("Endpoint, sealed", partial(endpoint_datagrams, private=True), 0.12),
    )
    missed += await compare(
        f"a stream of {STREAM >> 20} MiB",
        "MB per second",
        1e6,
        ("bare sockets, two threads", bare_stream, 0.0),
        ("Endpoint, by TCP", endpoint_stream, 0.12),
        ("Endpoint, by TCP inside TLS", partial(endpoint_stream, private=True), 0.06),
        ("Endpoint, in datagrams", partial(endpoint_stream, "udp"), 0.007),
    )
    missed += await compare(
        "handshakes, mutual, TLS 1.3",
        "per second",
        1,
        ("in memory", bare_handshakes, 0.0),
        ("Endpoint, new sessions", handshakes, 0.25),
    )
    return missed


if __name__ == "__main__":
    problems = asyncio.run(main())
    for problem in problems:
        print(problem, file=sys.stderr)
    sys.exit(bool(problems) and "--check" in sys.argv[1:])
