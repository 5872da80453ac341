"""What a flood of strangers costs members: python benchmarks/strangers.py [--check]

Two members ping each other in sealed datagrams, in one process and on one event loop, while another
process begins TLS handshakes with one of them from a hundred addresses of loopback. It proves
nothing and waits for no more than the first answer, so that it is as cheap for it as can be.
Printed: the round-trip time of members without strangers, during the flood, and without them again;
with --check the middle one must be below twice the first (medians, so that a busy machine decides
less).
"""

from __future__ import annotations

import asyncio
import multiprocessing
import ssl
import sys
from contextlib import suppress
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter

sys.path.insert(0, str(Path(__file__).parents[1]))

from p2p.certificates import PROTOCOL, Credentials
from p2p.endpoint import Endpoint
from p2p.identity import Identity
from p2p.network_key import NetworkKey
from p2p.packet import Channel, Packet
from p2p.peer import Address, PeerId
from p2p.traffic import EndpointConfig

LOCAL = Address("127.0.0.1", 0)
STRANGERS = 10_000
PER_SECOND = 1000  # handshakes that the strangers begin
SOURCES = [f"127.0.1.{number}" for number in range(1, 101)]
EVERY = 0.005  # seconds between pings
CALM = 3.0  # seconds


def flood(address: Address) -> None:
    """Begin handshakes, in a process of its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([PROTOCOL])
    hello = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), hello).do_handshake()
    first = hello.read()

    async def knock(source: str) -> None:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(5.0):
                reader, writer = await asyncio.open_connection(*address, local_addr=(source, 0))
                try:
                    writer.write(first)
                    await reader.read(1)
                finally:
                    writer.transport.abort()

    async def all_of_them() -> None:
        began = perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(STRANGERS):
                await asyncio.sleep(max(began + number / PER_SECOND - perf_counter(), 0))
                group.create_task(knock(SOURCES[number % len(SOURCES)]))

    asyncio.run(all_of_them())


class Pinger:
    """Two members, and the seconds there and back between them."""

    def __init__(self) -> None:
        key = NetworkKey.generate()
        self.ids: list[PeerId] = []
        self.ends: list[Endpoint] = []
        config = EndpointConfig(exempt_loopback=False)
        for on_packet in (self._came_back, self._arrived):
            identity = Identity.generate()
            self.ids.append(identity.id)
            credentials = Credentials(identity, [key])
            self.ends.append(Endpoint(on_packet, config=config, credentials=credentials))
        self._back: asyncio.Future[float] | None = None

    async def open(self) -> None:
        self.addresses = [await end.open(LOCAL) for end in self.ends]

    async def close(self) -> None:
        for end in self.ends:
            await end.close()

    def _came_back(self, packet: Packet) -> None:
        if self._back is not None and not self._back.done():
            self._back.set_result(perf_counter())

    def _arrived(self, packet: Packet) -> None:
        self.ends[1].send(Packet(self.addresses[0], packet.data, Channel.DATAGRAM, self.ids[0]))

    async def ping(self) -> float:
        """Seconds there and back; a second if it is lost."""
        self._back = asyncio.get_running_loop().create_future()
        began = perf_counter()
        self.ends[0].send(Packet(self.addresses[1], b"ping", Channel.DATAGRAM, self.ids[1]))
        with suppress(TimeoutError):
            return await asyncio.wait_for(self._back, 1.0) - began
        return 1.0

    async def pings(self, seconds: float, flooding: multiprocessing.Process | None) -> list[float]:
        """For so long, or until that process has ended."""
        trips, until = [], perf_counter() + seconds
        while flooding.is_alive() if flooding is not None else perf_counter() < until:
            trips.append(await self.ping())
            await asyncio.sleep(EVERY)
        return trips


def show(name: str, trips: list[float]) -> float:
    """Print a line; the median."""
    worst = quantiles(trips, n=100)[98]
    middle = median(trips)
    print(f"{name:26}{1e6 * middle:10,.0f}{1e6 * worst:10,.0f}{len(trips):10,}")
    return middle


async def main(check: bool) -> int:
    """Run it; the exit code."""
    pinger = Pinger()
    await pinger.open()
    await pinger.ping()  # makes the session
    print(f"{'round trips of members':26}{'median us':>10}{'99 % us':>10}{'pings':>10}")
    before = show("without strangers", await pinger.pings(CALM, None))
    process = multiprocessing.get_context("spawn").Process(
        target=flood, args=(pinger.addresses[1],)
    )
    process.start()
    during = show("while they come", await pinger.pings(0.0, process))
    show("without them again", await pinger.pings(CALM, None))
    traffic = pinger.ends[1].traffic
    print(f"handshakes refused or failed: {traffic.handshakes_failed:,} of {STRANGERS:,}")
    print(f"members wait {during / before:.2f} times as long")
    await pinger.close()
    complete = traffic.handshakes_failed >= 0.99 * STRANGERS
    return int(check and not (complete and during < 2 * before))


if __name__ == "__main__":
    sys.exit(asyncio.run(main("--check" in sys.argv[1:])))
