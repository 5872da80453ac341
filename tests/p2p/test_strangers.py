"""What strangers, outcasts and replays come to at an endpoint of a private network."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from p2p.certificates import PROTOCOL, Credentials
from p2p.endpoint import Endpoint
from p2p.identity import Identity
from p2p.network_key import NetworkKey
from p2p.packet import Channel, Packet
from p2p.peer import Address, PeerId
from p2p.seal import OVERHEAD
from p2p.sessions import Destination
from p2p.traffic import EndpointConfig
from tests.boxes import LOCAL, Box, run

KEY, OTHER_KEY = NetworkKey(b"k" * 32), NetworkKey(b"o" * 32)
ANNE, BOB = Identity.generate(), Identity.generate()
Opened = tuple[Box, Address]


@asynccontextmanager
async def member(
    identity: Identity = ANNE, listen: Address = LOCAL, key: NetworkKey = KEY, **options: Any
) -> AsyncIterator[Opened]:
    admit = options.pop("admit", None)
    invitation = options.pop("invitation", None)
    credentials = Credentials(identity, [key], admit=admit, invitation=invitation)
    box = Box(credentials=credentials, **options)
    try:
        yield box, await box.open(listen)
    finally:
        await box.endpoint.close()


@asynccontextmanager
async def pair(**options: Any) -> AsyncIterator[tuple[Opened, Opened]]:
    """ANNE, and BOB, who has the options."""
    async with member() as anne, member(BOB, **options) as bob:
        yield anne, bob


def to(address: Address, data: bytes = b"x", channel: Channel = Channel.DATAGRAM) -> Packet:
    return Packet(address, data, channel, BOB.id)


def sealed(anne: Box, address: Address, data: bytes) -> bytes:
    """The datagram by which ANNE would send this to BOB; they have a session."""
    sessions = anne.endpoint._sessions
    assert sessions is not None
    found = sessions.seal(Destination(address, BOB.id), data, asyncio.get_running_loop().time())
    assert found is not None
    return found.data


# members ------------------------------------------------------------------------------------------


def test_members_are_known_by_what_they_send() -> None:
    async def scenario() -> None:
        async with pair() as ((anne, own), (bob, address)):
            for channel in Channel:
                anne.endpoint.send(to(address, channel.name.encode(), channel))
            packets = await bob.received(2)
            assert {packet.data for packet in packets} == {b"DATAGRAM", b"STREAM"}
            assert {packet.peer for packet in packets} == {ANNE.id}
            bob.endpoint.send(Packet(own, b"back", Channel.DATAGRAM, ANNE.id))
            assert (await anne.received(1))[0].peer == BOB.id

    run(scenario)


# replays and forgeries ----------------------------------------------------------------------------


def test_a_datagram_that_is_repeated_or_flipped_arrives_once_and_is_not_answered() -> None:
    async def scenario() -> None:
        async with pair() as ((anne, _), (bob, address)):
            anne.endpoint.send(to(address))
            await bob.received(1)
            datagram = sealed(anne, address, b"once")
            assert len(datagram) == 4 + OVERHEAD
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                for bit in range(8 * len(datagram)):
                    flipped = bytearray(datagram)
                    flipped[bit // 8] ^= 1 << bit % 8
                    stranger.sendto(flipped, address)
                for _ in range(3):
                    stranger.sendto(datagram, address)
                await bob.until(lambda: bob.traffic.unopened == 8 * len(datagram) + 2)
                assert [packet.data for packet in bob.packets] == [b"x", b"once"]
                stranger.setblocking(False)
                with pytest.raises(BlockingIOError):
                    stranger.recv(1)

    run(scenario)


def test_a_recorded_session_means_nothing_after_a_restart() -> None:
    async def scenario() -> None:
        async with member() as (anne, _):
            async with member(BOB) as (bob, address):
                anne.endpoint.send(to(address))
                await bob.received(1)
                record = [sealed(anne, address, b"%d" % number) for number in range(50)]
            async with member(BOB) as (bob, address):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                    for datagram in record:
                        stranger.sendto(datagram, address)
                    await bob.until(lambda: bob.traffic.unopened == 50)
                assert bob.packets == []

    run(scenario)


# strangers ----------------------------------------------------------------------------------------


def test_a_stranger_gets_silence_by_udp_and_a_failed_handshake_by_tcp(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failed: list[tuple[str, str]] = []

    async def scenario() -> None:
        def on_failed(source: Address, why: str) -> None:
            failed.append((source.host, why))

        async with (
            member(BOB, on_failed=on_failed) as (bob, address),
            member(key=OTHER_KEY) as (stranger, _),
        ):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
                for size in (0, 1, 29, 100, 1229):
                    udp.sendto(b"\x01" * size, address)
                await bob.until(lambda: bob.traffic.unopened == 5)
                udp.setblocking(False)
                with pytest.raises(BlockingIOError):
                    udp.recv(1)
            for channel in Channel:
                stranger.endpoint.send(to(address, channel=channel))
            await stranger.until(lambda: stranger.traffic.dropped_out == 2)
            await bob.until(lambda: bob.traffic.handshakes_failed == 2)
            assert bob.packets == []
            assert bob.traffic.handshakes == 0

    run(scenario)
    assert [host for host, _ in failed] == ["127.0.0.1"] * 2
    assert all(why for _, why in failed)
    (line,) = caplog.messages  # of the stranger, to its own operator
    assert "is not in our network" in line


def refuses(who: Identity) -> Callable[[PeerId, bytes | None], str | None]:
    return lambda peer, invitation: "we do not like it" if peer == who.id else None


@pytest.mark.parametrize("refusing", ["who is dialled", "who dials"])
def test_whoever_is_not_admitted_gets_nothing_through(refusing: str) -> None:
    async def scenario() -> None:
        mine = {"admit": refuses(BOB)} if refusing == "who dials" else {}
        theirs = {"admit": refuses(ANNE)} if refusing == "who is dialled" else {}
        async with member(**mine) as (anne, _), member(BOB, **theirs) as (bob, address):
            for channel in Channel:
                anne.endpoint.send(to(address, channel=channel))
            await anne.until(lambda: anne.traffic.dropped_out == 2)
            assert bob.packets == []
            assert bob.endpoint.queues["connections"] == 0

    run(scenario)


def test_an_invitation_is_shown_in_both_directions() -> None:
    shown: list[tuple[PeerId, bytes | None]] = []

    def admit(peer: PeerId, invitation: bytes | None) -> None:
        shown.append((peer, invitation))

    async def scenario() -> None:
        async with (
            member(admit=admit, invitation=b"of anne") as (anne, _),
            member(BOB, admit=admit) as (bob, address),
        ):
            anne.endpoint.send(to(address))
            await bob.received(1)

    run(scenario)
    assert set(shown) == {(ANNE.id, b"of anne"), (BOB.id, None)}


def test_who_was_in_is_out_at_once_when_expelled() -> None:
    banned: set[PeerId] = set()

    async def scenario() -> None:
        def admit(peer: PeerId, invitation: bytes | None) -> str | None:
            return "it is banned" if peer in banned else None

        async with pair(admit=admit) as ((anne, _), (bob, address)):
            for channel in Channel:
                anne.endpoint.send(to(address, channel=channel))
            await bob.received(2)
            datagram = sealed(anne, address, b"afterwards")
            banned.add(ANNE.id)
            bob.endpoint.expel(ANNE.id)
            await bob.until(lambda: not bob.endpoint.queues["connections"])
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as anywhere:
                anywhere.sendto(datagram, address)
                await bob.until(lambda: bob.traffic.unopened == 1)
            anne.endpoint.send(to(address, b"again", Channel.STREAM))
            await anne.until(lambda: anne.traffic.dropped_out == 1)
            assert len(bob.packets) == 2

    run(scenario)


def test_a_connection_does_not_outlive_the_admission_of_its_member() -> None:
    admitted = [True]

    async def scenario() -> None:
        def admit(peer: PeerId, invitation: bytes | None) -> str | None:
            return None if admitted[0] else "it has expired"

        async with pair(admit=admit) as ((anne, _), (bob, address)):
            anne.endpoint.send(to(address, b"before", Channel.STREAM))
            await bob.received(1)
            await anne.until(lambda: anne.endpoint.queues["streams"] == 0)
            admitted[0] = False
            anne.endpoint.send(to(address, b"after", Channel.STREAM))
            await anne.until(lambda: anne.traffic.dropped_out == 1)
            assert bob.traffic.handshakes == 1  # it was the same connection
            assert [packet.data for packet in bob.packets] == [b"before"]

    run(scenario)


# floods -------------------------------------------------------------------------------------------


@asynccontextmanager
async def silent(count: int, address: Address, box: Box) -> AsyncIterator[None]:
    """So many connections on which nobody says anything; no more at once than the kernel queues."""
    with ExitStack() as stack:
        for number in range(1, count + 1):
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            with suppress(BlockingIOError):
                one.connect(address)
            if number % 50 == 0:
                await box.until(
                    lambda: box.traffic.dropped_in + len(box.endpoint._inbox.connections) >= number  # noqa: B023
                )
        yield


def test_a_thousand_silent_connections_take_no_place_from_members() -> None:
    async def scenario() -> None:
        async with pair() as ((anne, _), (bob, address)), silent(1000, address, bob):
            assert bob.traffic.handshakes_failed == 1000 - 64
            assert bob.endpoint.queues["handshakes"] == 64
            for channel in Channel:
                anne.endpoint.send(to(address, channel=channel))
            await bob.received(2)

    run(scenario)


def test_a_thousand_idle_connections_are_held_up_to_a_limit() -> None:
    async def scenario() -> None:
        box = Box()
        address = await box.endpoint.open(LOCAL)
        async with silent(1000, address, box):
            assert box.traffic.dropped_in == 1000 - 256
            assert box.endpoint.queues["connections"] == 256
        await box.endpoint.close()

    run(scenario)


def hello() -> bytes:
    """The first flight of a stranger who speaks our protocol."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([PROTOCOL])
    there = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), there).do_handshake()
    return there.read()


def test_handshakes_of_strangers_are_begun_at_a_rate_and_members_get_through() -> None:
    """How long members wait meanwhile is measured by benchmarks/strangers.py."""
    reasons: Counter[str] = Counter()

    async def knock(address: Address, source: str, first: bytes) -> None:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection(*address, local_addr=(source, 0))
            writer.write(first)
            await reader.read()
            writer.close()

    async def scenario() -> None:
        config = EndpointConfig(
            exempt_loopback=False, handshake_rate=0.001, handshake_rate_all=0.001, handshake=0.5
        )
        first = hello()
        async with (
            member(BOB, config=config, on_failed=lambda source, why: reasons.update([why])) as (
                bob,
                address,
            ),
            member() as (anne, _),
        ):
            anne.endpoint.send(to(address))
            await bob.received(1)
            for source in ("127.0.1.1", "127.0.1.2"):
                for _ in range(4):
                    await asyncio.gather(*(knock(address, source, first) for _ in range(50)))
            await bob.until(lambda: bob.traffic.handshakes_failed == 400)
            for channel in Channel:
                anne.endpoint.send(to(address, channel=channel))
            await bob.received(3)

    run(scenario)
    assert reasons.total() == 400
    assert reasons["there are too many"] == 400 - 2 * 20


@pytest.mark.slow
def test_members_wait_less_than_twice_as_long_while_ten_thousand_strangers_come() -> None:
    program = Path(__file__).parents[2] / "benchmarks" / "strangers.py"
    result = subprocess.run(
        [sys.executable, str(program), "--check"], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stdout + result.stderr


# what is shown ------------------------------------------------------------------------------------


def test_the_length_of_every_queue_is_shown() -> None:
    async def scenario() -> None:
        async with member() as (anne, _):
            queues = anne.endpoint.queues
            out = {"unsealed", "in_datagrams", "in_datagrams_bytes", "streams", "stream_bytes"}
            datagrams = {"unfinished", "unfinished_bytes", "sources"}
            assert set(queues) == out | datagrams | {"connections", "handshakes", "body_bytes"}
            with socket.create_server(LOCAL) as deaf:
                address = Address(*deaf.getsockname())
                for number in range(3):
                    anne.endpoint.send(to(address, b"%d" % number))
                anne.endpoint.send(to(address, b"12345", Channel.STREAM))
                queues = anne.endpoint.queues
                assert (queues["unsealed"], queues["streams"], queues["stream_bytes"]) == (3, 1, 5)

    run(scenario)


def test_an_endpoint_that_is_not_open_has_no_queues() -> None:
    assert Endpoint(print).queues == {}
