"""Which way streams go, by real sockets of this machine."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from p2p.certificates import Credentials
from p2p.frames import FRAGMENT, Fragment, is_frame
from p2p.identity import Identity
from p2p.network_key import NetworkKey
from p2p.packet import Channel, Packet
from p2p.paths import DOUBT, HEARD, MOST, Paths
from p2p.peer import Address
from p2p.traffic import EndpointConfig
from tests.boxes import LOCAL, PATIENCE, Box, run

SMALL, BIG = random.Random(1).randbytes(5_000), random.Random(2).randbytes(1_000_000)


@asynccontextmanager
async def boxes(*configs: EndpointConfig, sealed: bool = False) -> AsyncIterator[list[Box]]:
    key = NetworkKey(bytes(32))
    opened: list[Box] = []
    try:
        for config in configs:
            credentials = Credentials(Identity.generate(), [key]) if sealed else None
            box = Box(config=config, credentials=credentials)
            opened.append(box)
            await box.open()
        yield opened
    finally:
        for box in opened:
            await box.endpoint.close()


def nobody() -> Address:
    """Where nobody listens."""
    with socket.socket() as free:
        free.bind(LOCAL)
        return Address(*free.getsockname())


# Whoever waits long is not mistaken for somebody who does not answer on a machine that is busy.
AUTO, UDP, TCP = (
    EndpointConfig(transport=transport, give_way=PATIENCE) for transport in ("auto", "udp", "tcp")
)


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize(("data", "datagrams"), [(SMALL, True), (BIG, False)], ids=["5 KB", "1 MB"])
def test_short_streams_go_in_datagrams_and_long_ones_by_tcp(
    data: bytes, datagrams: bool, sealed: bool
) -> None:
    async def scenario() -> None:
        async with boxes(AUTO, AUTO, sealed=sealed) as [a, b]:
            b.send(a.at, b"hello", Channel.DATAGRAM, a.id)
            await a.received(1)
            a.send(b.at, data, Channel.STREAM, b.id)
            (packet,) = await b.received(1)
            assert (packet.data, packet.channel, packet.peer) == (data, Channel.STREAM, a.id)
            # Only datagrams come from the port on which their sender listens.
            assert (packet.address == a.at) == datagrams
            await a.until(lambda: a.traffic.packets_sent == 1)
            assert b.traffic.packets_received == 1
            if datagrams:
                assert len(data) < a.traffic.bytes_sent < 1.1 * len(data)
                assert b.traffic.bytes_received == a.traffic.bytes_sent
            assert (a.endpoint.streams_waiting, a.endpoint.bytes_waiting) == (0, 0)
            assert a.traffic.dropped_out == b.traffic.dropped_in == 0

    run(scenario)


def test_to_whom_nothing_was_heard_from_by_udp_streams_go_by_tcp() -> None:
    async def scenario() -> None:
        async with boxes(AUTO, AUTO) as [a, b]:
            a.send(b.at, SMALL, Channel.STREAM)
            (packet,) = await b.received(1)
            assert (packet.data, packet.address != a.at) == (SMALL, True)

    run(scenario)


def test_a_peer_whom_tcp_does_not_reach_gets_long_streams_in_datagrams() -> None:
    async def scenario() -> None:
        async with boxes(AUTO, AUTO, sealed=True) as [a, b]:
            b.send(a.at, b"hello", Channel.DATAGRAM, a.id)  # b has dialled, and a has not
            await a.received(1)
            wrong = nobody()  # all that a is told; where b really is, only its datagrams say
            for data in (BIG, BIG[::-1]):
                a.send(wrong, data, Channel.STREAM, b.id)
            assert [packet.data for packet in await b.received(2)] == [BIG, BIG[::-1]]
            assert {packet.address for packet in b.packets} == {a.at}
            a.send(wrong, BIG[1:], Channel.STREAM, b.id)  # TCP is not even tried
            assert a.endpoint._outbox._lanes == {}
            await b.received(3)
            await a.until(lambda: a.traffic.packets_sent == 3)
            assert a.traffic.dropped_out == 0

    run(scenario)


def test_an_address_that_tcp_does_not_reach_gets_long_streams_in_datagrams() -> None:
    async def scenario() -> None:
        async with boxes(AUTO, UDP) as [a, b]:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as behind:
                behind.bind(LOCAL)
                behind.setblocking(False)
                relay = Address(*behind.getsockname())
                loop = asyncio.get_running_loop()

                def forward() -> None:
                    data, source = behind.recvfrom(2000)
                    behind.sendto(data, b.at if source == a.at else a.at)

                loop.add_reader(behind, forward)
                b.send(relay, b"hello", Channel.DATAGRAM)
                await a.received(1)
                a.send(relay, BIG, Channel.STREAM)
                assert await b.received(1) == [Packet(relay, BIG, Channel.STREAM)]
                await a.until(lambda: a.traffic.packets_sent == 1)
                loop.remove_reader(behind)

    run(scenario)


def test_a_stream_that_nobody_acknowledges_goes_by_tcp_instead() -> None:
    async def scenario() -> None:
        async with boxes(EndpointConfig(give_way=0.1), TCP) as [a, b]:
            assert b.endpoint._udp is not None
            b.endpoint._udp.sendto(b"hello", a.at)  # the last that comes by UDP
            await a.received(1)
            a.send(b.at, SMALL, Channel.STREAM)
            assert a.endpoint.streams_waiting == 1
            (packet,) = await b.received(1)
            assert (packet.data, packet.address != a.at) == (SMALL, True)
            assert a.endpoint.streams_waiting == a.traffic.dropped_out == 0
            assert b.traffic.dropped_in > 0

    run(scenario)


def test_a_stream_that_goes_neither_way_is_dropped_and_counted() -> None:
    config = EndpointConfig(give_way=0.1, stall=0.2)

    async def scenario() -> None:
        async with boxes(config) as [a]:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
                silent.bind(LOCAL)
                silent.sendto(b"hello", a.at)
                await a.received(1)
                for data in (SMALL, BIG):
                    a.send(Address(*silent.getsockname()), data, Channel.STREAM)
                await a.until(lambda: a.traffic.dropped_out == 2)
                assert a.endpoint.streams_waiting == 0
                assert a.traffic.packets_sent == 0

    run(scenario)


@pytest.mark.parametrize("sealed", [False, True])
def test_with_transport_udp_streams_go_in_datagrams_only(sealed: bool) -> None:
    async def scenario() -> None:
        async with boxes(UDP, UDP, sealed=sealed) as [a, b]:
            for data in (b"", SMALL, BIG):
                a.send(b.at, data, Channel.STREAM)
            packets = await b.received(3)
            assert sorted(len(packet.data) for packet in packets) == [0, 5_000, 1_000_000]
            assert {packet.address for packet in packets} == {a.at}
            await a.until(lambda: a.traffic.packets_sent == 3)

    run(scenario)


def test_with_transport_tcp_nothing_goes_by_udp_not_even_an_answer() -> None:
    async def scenario() -> None:
        async with boxes(TCP, AUTO) as [a, b]:
            for channel in Channel:
                a.send(b.at, channel.value.encode(), channel)
            packets = await b.received(2)
            assert {packet.data for packet in packets} == {b"datagram", b"stream"}
            assert {packet.channel for packet in packets} == {Channel.STREAM}
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                other.bind(LOCAL)
                other.setblocking(False)
                other.sendto(Fragment(1, 0, 0, 2, 0, 0, True, b"hi").encode(), a.at)
                a.send(Address(*other.getsockname()), b"hello", Channel.DATAGRAM)
                await a.until(lambda: a.traffic.dropped_in == a.traffic.dropped_out == 1)
                with pytest.raises(BlockingIOError):
                    other.recv(2000)
            assert a.packets == []

    run(scenario)


def test_a_datagram_that_looks_like_a_fragment_is_our_own_mistake() -> None:
    async def scenario() -> None:
        async with boxes(AUTO) as [a]:
            with pytest.raises(ValueError, match="begins with 0xc1"):
                a.send(a.at, b"\xc1", Channel.DATAGRAM)

    run(scenario)


def test_fragments_of_strangers_change_nothing() -> None:
    async def scenario() -> None:
        async with boxes(AUTO, sealed=True) as [a]:
            fragment = Fragment(1, 0, 0, 2, 0, 0, True, b"hi").encode()
            assert is_frame(fragment)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                stranger.bind(LOCAL)
                stranger.setblocking(False)
                stranger.sendto(fragment, a.at)
                await a.until(lambda: a.traffic.unopened == 1)
                with pytest.raises(BlockingIOError):
                    stranger.recv(2000)
            assert a.packets == []

    run(scenario)


@pytest.mark.parametrize("config", [AUTO, UDP], ids=["auto", "udp"])
def test_what_is_under_way_when_an_endpoint_closes_is_dropped_and_counted(
    config: EndpointConfig,
) -> None:
    async def scenario() -> None:
        async with boxes(config) as [a]:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
                silent.bind(LOCAL)
                silent.sendto(b"hello", a.at)
                await a.received(1)
                a.send(Address(*silent.getsockname()), SMALL, Channel.STREAM)
                assert (a.endpoint.streams_waiting, a.endpoint.bytes_waiting) == (1, 5_000)
                await a.endpoint.close()
                assert a.traffic.dropped_out == 1

    run(scenario)


def test_a_stream_that_has_arrived_in_part_is_shown_among_the_queues() -> None:
    async def scenario() -> None:
        async with boxes(AUTO) as [a]:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source:
                source.sendto(
                    Fragment(7, 0, 0, len(SMALL), 0, 0, True, SMALL[:FRAGMENT]).encode(), a.at
                )
                await a.until(lambda: a.endpoint.queues["sources"] == 1)
            queues = a.endpoint.queues
            assert (queues["unfinished"], queues["unfinished_bytes"]) == (1, FRAGMENT)

    run(scenario)


# the choice ---------------------------------------------------------------------------------------


def test_udp_is_chosen_for_short_streams_while_it_is_not_in_doubt() -> None:
    paths, key = Paths(16_384, 60.0), LOCAL
    assert not paths.by_datagrams(key, 100, 0.0)  # nothing is known
    paths.sent(key, 0.0)
    paths.heard(key, 1.0)
    for size, chosen in ((0, True), (16_384, True), (16_385, False)):
        assert paths.by_datagrams(key, size, 2.0) == chosen
    paths.sent(key, 3.0)
    paths.sent(key, 3.0 + DOUBT)  # the first counts
    assert paths.by_datagrams(key, 100, 3.0 + 0.9 * DOUBT)
    assert not paths.by_datagrams(key, 100, 3.0 + 1.1 * DOUBT)
    paths.heard(key, 4.0)
    assert paths.by_datagrams(key, 100, 4.0 + 0.9 * HEARD)
    assert not paths.by_datagrams(key, 100, 4.0 + 1.1 * HEARD)


def test_after_a_stream_that_nobody_acknowledged_udp_is_avoided_for_a_while() -> None:
    paths, key = Paths(16_384, 60.0), LOCAL
    paths.stalled(key, 0.0)
    for now, chosen in ((1.0, False), (59.0, False), (61.0, True)):
        paths.heard(key, now)
        assert paths.by_datagrams(key, 100, now) == chosen
    paths.stalled(key, 70.0)
    paths.failed(key, 71.0)
    assert paths.by_datagrams(key, 100, 72.0)  # there is no other


def test_udp_is_chosen_for_all_streams_while_tcp_fails_and_udp_does_not() -> None:
    paths, key = Paths(16_384, 60.0), LOCAL
    paths.failed(key, 0.0)
    assert not paths.by_datagrams(key, 10**6, 0.0)  # UDP is not known to be any better
    for now, chosen in ((1.0, True), (59.0, True), (61.0, False)):  # then TCP is tried again
        paths.heard(key, now)
        assert paths.by_datagrams(key, 10**6, now) == chosen
        assert paths.refuses(key, now) == chosen
    assert not paths.refuses(Address("10.0.0.1", 1), 0.0)


def test_only_so_many_paths_are_remembered_the_latest_ones() -> None:
    paths = Paths(16_384, 60.0)
    for port in range(MOST + 10):
        paths.heard(Address("10.0.0.1", port), 0.0)
        paths.heard(LOCAL, 0.0)
        paths.sent(Address("10.0.0.2", port), 0.0)  # to strangers: nothing to remember
    assert len(paths._paths) == MOST
    assert paths.answers(LOCAL, 1.0)
    assert not paths.answers(Address("10.0.0.1", 0), 1.0)
