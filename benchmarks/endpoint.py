"""How near an endpoint comes to the sockets beneath it: python benchmarks/endpoint.py

Everything runs on loopback, in one process, one after the other, several times in turn; the best
of each counts. Only ratios within one run mean something: "of the floor" compares with the same
bytes through bare sockets, one system call for each datagram and no event loop.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Literal

sys.path.insert(0, str(Path(__file__).parents[1]))

from p2p.certificates import Credentials
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


async def bare_datagrams() -> float:
    """Datagrams a second through two blocking sockets: the floor."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as target,
    ):
        target.bind(LOCAL)
        address = target.getsockname()
        began = perf_counter()
        for _ in range(BURSTS):
            for _ in range(BURST):
                source.sendto(PAYLOAD, address)
            for _ in range(BURST):
                target.recvfrom(MAX_DATAGRAM)
        return BURSTS * BURST / (perf_counter() - began)


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


async def asyncio_datagrams() -> float:
    """Datagrams a second through two of asyncio's datagram endpoints."""
    loop, gate = asyncio.get_running_loop(), Gate()
    target, _ = await loop.create_datagram_endpoint(lambda: Protocol(gate), local_addr=LOCAL)
    source, _ = await loop.create_datagram_endpoint(lambda: Protocol(gate), local_addr=LOCAL)
    address = target.get_extra_info("sockname")
    began = perf_counter()
    for _ in range(BURSTS):
        for _ in range(BURST):
            source.sendto(PAYLOAD, address)
        await gate.burst()
    spent = perf_counter() - began
    source.close()
    target.close()
    return BURSTS * BURST / spent


def credentials(private: bool) -> Credentials | None:
    """Of a new member of the one network, or None."""
    return Credentials(Identity.generate(), [KEY]) if private else None


async def endpoint_datagrams(private: bool = False) -> float:
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
    began = perf_counter()
    for _ in range(BURSTS):
        for _ in range(BURST):
            source.send(packet)
        await gate.burst()
    spent = perf_counter() - began
    await source.close()
    await target.close()
    return BURSTS * BURST / spent


async def bare_stream() -> float:
    """Bytes a second through a pair of blocking TCP sockets, a thread at each end: the floor."""
    data = memoryview(bytes(STREAM))
    with (
        socket.create_server(LOCAL) as listener,
        socket.create_connection(listener.getsockname()) as source,
        listener.accept()[0] as target,
    ):
        sender = threading.Thread(target=source.sendall, args=(data,))
        left = memoryview(bytearray(STREAM))
        began = perf_counter()
        sender.start()
        while left:
            left = left[target.recv_into(left[:CHUNK]) :]
        sender.join()
        return STREAM / (perf_counter() - began)


async def endpoint_stream(transport: Literal["tcp", "udp"] = "tcp", private: bool = False) -> float:
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
    began = perf_counter()
    source.send(packet)
    assert await arrived.get() == STREAM
    spent = perf_counter() - began
    await source.close()
    await target.close()
    return STREAM / spent


async def handshakes() -> float:
    """Sessions a second that one endpoint makes with new ones, each by a TLS handshake."""
    arrived: asyncio.Queue[Packet] = asyncio.Queue()
    target = Endpoint(arrived.put_nowait, credentials=credentials(True))
    address = await target.open(LOCAL)
    sources = [Endpoint(print, credentials=credentials(True)) for _ in range(HANDSHAKES)]
    for source in sources:
        await source.open(LOCAL)
    began = perf_counter()
    for source in sources:
        source.send(Packet(address, b"hello", Channel.DATAGRAM))
        await arrived.get()
    spent = perf_counter() - began
    for endpoint in (*sources, target):
        await endpoint.close()
    return HANDSHAKES / spent


async def compare(
    title: str, unit: str, scale: float, *ways: tuple[str, Callable[[], Awaitable[float]]]
) -> None:
    """Run the ways in turn, the floor first, and print the best of each."""
    best = dict.fromkeys([name for name, _ in ways], 0.0)
    for _ in range(ROUNDS):
        for name, way in ways:
            best[name] = max(best[name], await way())
    floor = best[ways[0][0]]
    print(f"{title:34}{unit:>16}{'of the floor':>15}")
    for name, rate in best.items():
        print(f"  {name:32}{rate / scale:16,.0f}{rate / floor:15.0%}")


async def main() -> None:
    """Print both tables."""
    await compare(
        f"datagrams of {MAX_DATAGRAM} bytes",
        "per second",
        1,
        ("bare sockets, blocking", bare_datagrams),
        ("asyncio.DatagramProtocol", asyncio_datagrams),
        ("Endpoint", endpoint_datagrams),
        ("Endpoint, sealed", partial(endpoint_datagrams, private=True)),
    )
    await compare(
        f"a stream of {STREAM >> 20} MiB",
        "MB per second",
        1e6,
        ("bare sockets, two threads", bare_stream),
        ("Endpoint, by TCP", endpoint_stream),
        ("Endpoint, by TCP inside TLS", partial(endpoint_stream, private=True)),
        ("Endpoint, in datagrams", partial(endpoint_stream, "udp")),
    )
    print(f"sessions a second with new members, TLS at both ends: {await handshakes():.0f}")


if __name__ == "__main__":
    asyncio.run(main())
