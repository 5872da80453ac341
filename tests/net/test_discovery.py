"""Which node announces itself where, and what it makes of what it hears."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random

import pytest
from zeroconf import ServiceInfo
from zeroconf.asyncio import AsyncZeroconf

from gossip.addresses import advertised
from gossip.discovery import Discovery
from p2p import Address, Peer, PeerId, Swarm, SwarmConfig
from p2p.lan import MOST_PEERS, service_type, write
from p2p.network_key import NetworkKey
from tests.net.lab import Lab
from tests.net.machine import Machine

KEY, FRESH, OTHER = (NetworkKey(bytes([number]) * 32) for number in range(3))
EVERYWHERE = Address("0.0.0.0", 7946)
MDNS = f":{5353:04X} "  # as /proc writes the port
PATIENCE = 20.0  # seconds after which a test that waits has failed


class Place:
    """A swarm on a machine, which sends nothing, and what it gets to know there."""

    def __init__(
        self, machine: Machine, number: int, *keys: NetworkKey, listen: Address = EVERYWHERE
    ) -> None:
        self.machine = machine
        with machine.inside():
            self.me = Peer(PeerId(bytes([number]) * 32), advertised(listen))
        self.swarm = Swarm(self.me, SwarmConfig(), Random(0), incarnation=1)
        self._news = asyncio.Event()
        self.discovery = Discovery(self.swarm, listen, [], keys, self._news.set)

    @property
    def known(self) -> dict[PeerId, str]:
        return {peer.id: str(peer.address) for peer in self.swarm.passive.values()}

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._news.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), 0.05)

    def announces(self) -> bool:
        """Whether anything on the machine takes part in multicast DNS."""
        with self.machine.inside():
            return MDNS in Path("/proc/thread-self/net/udp").read_text()


@asynccontextmanager
async def looking_around(*places: Place) -> AsyncIterator[None]:
    for place in places:
        with place.machine.inside():  # where its sockets stay
            await place.discovery.look_around()
    try:
        yield
    finally:
        await asyncio.gather(*(place.discovery.close() for place in places))


def test_members_get_to_know_each_other_and_strangers_nobody(lab: Lab) -> None:
    machines = [lab.machine() for _ in range(3)]
    lab.switch(*machines)

    async def check() -> None:
        a, b, stranger = (
            Place(machine, number, key)
            for machine, number, key in zip(machines, (1, 2, 3), (KEY, KEY, OTHER), strict=True)
        )
        async with looking_around(stranger, a):
            async with looking_around(b):
                await a.until(lambda: a.known == {b.me.id: "10.0.1.2:7946"})
                await b.until(lambda: b.known == {a.me.id: "10.0.1.1:7946"})
                assert a.discovery._lan is not None
                there = a.discovery._lan.peers
                assert list(there) == [b.me.id]
            await a.until(lambda: not there)  # b has withdrawn its announcement
            assert not stranger.known

    asyncio.run(check())


def test_a_key_is_replaced_while_those_with_either_find_each_other(lab: Lab) -> None:
    machines = [lab.machine() for _ in range(2)]
    lab.switch(*machines)

    async def check() -> None:
        old, both = Place(machines[0], 1, KEY), Place(machines[1], 2, FRESH, KEY)
        async with looking_around(old, both):
            await old.until(lambda: both.me.id in old.known)
            await both.until(lambda: old.me.id in both.known)

    asyncio.run(check())


def test_announcements_of_strangers_teach_nothing_and_leave_room_for_members(lab: Lab) -> None:
    machines = [lab.machine() for _ in range(3)]
    lab.switch(*machines)
    kind = service_type(KEY)

    def forged(name: str, record: dict[str, str]) -> ServiceInfo:
        return ServiceInfo(
            kind,
            f"{name}.{kind}",
            9,
            properties=record,
            server="evil.local.",
            parsed_addresses=["10.0.1.3"],
        )

    async def check() -> None:
        a, b = Place(machines[0], 1, KEY), Place(machines[1], 2, KEY)
        at = [Address("10.0.1.3", 9)]
        with machines[2].inside():
            evil = AsyncZeroconf(["10.0.1.3"])
            await evil.zeroconf.async_wait_for_start()
        async with looking_around(a):
            for number in range(2 * MOST_PEERS):
                peer = PeerId(bytes([100 + number % 100, number]) * 16)
                service = forged(str(peer), write(OTHER, peer, at))
                await evil.async_register_service(service, cooperating_responders=True)
            # Even what a member has said does not fit another's name.
            stolen = forged(str(a.me.id), write(KEY, b.me.id, at))
            await evil.async_register_service(stolen, cooperating_responders=True)
            nameless = forged("nobody", write(KEY, b.me.id, at))
            await evil.async_register_service(nameless, cooperating_responders=True)
            async with looking_around(b):
                await a.until(lambda: bool(a.known))
            assert a.known == {b.me.id: "10.0.1.2:7946"}
        await evil.async_close()

    asyncio.run(check())


def test_a_member_that_moves_is_known_where_it_is_now(lab: Lab) -> None:
    machines = [lab.machine() for _ in range(2)]
    lab.switch(*machines)
    kind = service_type(KEY)

    async def check() -> None:
        a, moving = Place(machines[0], 1, KEY), PeerId(bytes([2]) * 32)
        with machines[1].inside():
            mdns = AsyncZeroconf(["10.0.1.2"])
            await mdns.zeroconf.async_wait_for_start()
        async with looking_around(a):
            for port in (1, 2):
                at = [Address("10.0.1.2", port)]
                service = ServiceInfo(
                    kind,
                    f"{moving}.{kind}",
                    port,
                    properties=write(KEY, moving, at),
                    parsed_addresses=["10.0.1.2"],
                )
                mdns.zeroconf.registry.async_remove(service)
                await mdns.async_register_service(service, cooperating_responders=True)
                await a.until(lambda port=port: a.known == {moving: f"10.0.1.2:{port}"})
        await mdns.async_close()

    asyncio.run(check())


def test_a_node_on_two_networks_is_found_on_each_at_its_address_there(lab: Lab) -> None:
    both, one, other = (lab.machine() for _ in range(3))
    lab.switch(both, one, network=1)
    lab.switch(both, other, network=2)

    async def check() -> None:
        middle, left, right = Place(both, 1, KEY), Place(one, 2, KEY), Place(other, 3, KEY)
        async with looking_around(middle, left, right):
            await left.until(lambda: left.known == {middle.me.id: "10.0.1.1:7946"})
            await right.until(lambda: right.known == {middle.me.id: "10.0.2.1:7946"})
            await middle.until(lambda: middle.known.keys() == {left.me.id, right.me.id})

    asyncio.run(check())


def test_a_node_that_listens_at_one_address_is_announced_there_only(lab: Lab) -> None:
    both, one, late, other = (lab.machine() for _ in range(4))
    lab.switch(both, one, late, network=1)
    lab.switch(both, other, network=2)

    async def check() -> None:
        middle = Place(both, 1, KEY, listen=Address("10.0.2.1", 7946))
        left, right = Place(one, 2, KEY), Place(other, 3, KEY)
        async with looking_around(left, right, middle):
            await right.until(lambda: bool(right.known))
            last = Place(late, 4, KEY)
            async with looking_around(last):
                await left.until(lambda: bool(left.known))
                assert left.known.keys() == {last.me.id}

    asyncio.run(check())


@pytest.mark.parametrize(
    ("keys", "listen", "announced"),
    [
        ([KEY], EVERYWHERE, True),
        ([KEY], Address("127.0.0.1", 7946), False),
        ([], EVERYWHERE, False),
    ],
)
def test_only_who_has_a_key_and_is_not_on_loopback_is_announced(
    lab: Lab, keys: list[NetworkKey], listen: Address, announced: bool
) -> None:
    machine = lab.machine()
    lab.switch(machine)

    async def check() -> None:
        place = Place(machine, 1, *keys, listen=listen)
        async with looking_around(place):
            assert place.announces() == announced

    asyncio.run(check())


def test_without_a_network_that_is_said_in_one_line(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    async def check() -> None:
        async with looking_around(Place(lab.machine(), 1, KEY)):
            (record,) = caplog.records
            assert record.levelno == logging.WARNING
            assert "cannot look for others on the local network" in record.message

    asyncio.run(check())


def test_a_node_on_all_interfaces_is_reached_at_the_one_that_leads_to_its_seed(lab: Lab) -> None:
    machine, one, other = (lab.machine() for _ in range(3))
    with machine.inside():
        assert advertised(EVERYWHERE).host == "127.0.0.1"
    lab.switch(machine, one, network=1)
    lab.switch(machine, other, network=2)
    seed = [Address("seed.test", 7946), Address("10.0.2.2", 7946)]
    with machine.inside():  # no route leads outside
        assert advertised(EVERYWHERE).host == "10.0.1.1"
        assert advertised(EVERYWHERE, seed).host == "10.0.2.1"
    machine.ip("route", "add", "default", "via", "10.0.2.2")
    with machine.inside():
        assert advertised(EVERYWHERE).host == "10.0.2.1"
        assert advertised(EVERYWHERE, [Address("10.0.1.2", 7946)]).host == "10.0.1.1"
