"""Endpoints on real sockets of this machine, for tests."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

from p2p.certificates import Credentials
from p2p.endpoint import Endpoint
from p2p.packet import Channel, Packet
from p2p.peer import Address, PeerId

LOCAL = Address("127.0.0.1", 0)
PATIENCE = 20.0  # seconds after which a test that waits has failed


class Box:
    """An endpoint and the packets that reached it; the options are the endpoint's."""

    def __init__(self, *, credentials: Credentials | None = None, **options: Any) -> None:
        self.packets: list[Packet] = []
        self.endpoint = Endpoint(self.packets.append, credentials=credentials, **options)
        self.traffic = self.endpoint.traffic
        self.id = credentials.identity.id if credentials else None
        self.at = LOCAL  # where it listens, once it does

    async def open(self, listen: Address = LOCAL) -> Address:
        self.at = await self.endpoint.open(listen)
        return self.at

    def send(self, to: Address, data: bytes, channel: Channel, peer: PeerId | None = None) -> None:
        self.endpoint.send(Packet(to, data, channel, peer))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let the loop run until it is so."""
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110 - the sockets of this process are the event
                await asyncio.sleep(0.001)

    async def received(self, count: int) -> list[Packet]:
        await self.until(lambda: len(self.packets) >= count)
        return self.packets


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run it; whatever the loop complains about, and every task that is left, is a failure."""

    async def main() -> None:
        complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
        async with asyncio.timeout(2 * PATIENCE):
            await scenario()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        gc.collect()
        await asyncio.sleep(0)
        assert complaints == []

    asyncio.run(main())
