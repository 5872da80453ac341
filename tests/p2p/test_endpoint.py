"""Endpoints on real sockets of this machine."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from p2p.endpoint import Endpoint
from p2p.errors import P2PError, PortInUse
from p2p.packet import MAX_DATAGRAM, Channel, Packet
from p2p.peer import Address
from p2p.traffic import EndpointConfig, Traffic
from tests.boxes import LOCAL, PATIENCE, Box, run


@asynccontextmanager
async def boxes(
    count: int = 1, listen: Address = LOCAL, **options: Any
) -> AsyncIterator[list[tuple[Box, Address]]]:
    opened: list[tuple[Box, Address]] = []
    try:
        for _ in range(count):
            box = Box(**options)
            opened.append((box, await box.open(listen)))
        yield opened
    finally:
        for box, _ in opened:
            await box.endpoint.close()


async def request(address: Address, *parts: bytes, eof: bool = False) -> bytes:
    """Everything that comes back for these bytes, until the connection is closed."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        if eof:
            writer.write_eof()
        async with asyncio.timeout(PATIENCE):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


def post(size: int, *headers: str) -> bytes:
    lines = ["POST /v1/packet HTTP/1.1", "Host: x", f"Content-Length: {size}", *headers, "", ""]
    return "\r\n".join(lines).encode()


# what works --------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_datagrams_and_streams_arrive_whole_at_one_port(host: str) -> None:
    small, big = b"\x01" * MAX_DATAGRAM, random.Random(1).randbytes(5_000_000)

    async def scenario() -> None:
        async with boxes(2, Address(host, 0)) as [(a, source), (b, target)]:
            a.endpoint.send(Packet(target, small, Channel.DATAGRAM))
            a.endpoint.send(Packet(target, big, Channel.STREAM))
            datagram, stream = sorted(await b.received(2), key=lambda packet: len(packet.data))
            assert datagram == Packet(source, small, Channel.DATAGRAM)
            assert (stream.data, stream.channel) == (big, Channel.STREAM)
            assert stream.address.host == host
            assert type(stream.data) is bytes
            await a.until(lambda: a.traffic.packets_sent == 2)  # once the answer is back
            assert a.traffic == Traffic(bytes_sent=5_001_200, packets_sent=2)
            assert b.traffic == Traffic(bytes_received=5_001_200, packets_received=2)

    run(scenario)


def test_streams_to_one_destination_arrive_in_order_and_empty_ones_too() -> None:
    data = [b"", b"a", b"b" * 300_000, b"c"]

    async def scenario() -> None:
        async with boxes(2) as [(a, _), (b, target)]:
            for each in data:
                a.endpoint.send(Packet(target, each, Channel.STREAM))
            assert [packet.data for packet in await b.received(4)] == data
            assert len({packet.address for packet in b.packets}) == 1  # one connection, kept alive

    run(scenario)


def test_a_packet_to_oneself_arrives() -> None:
    async def scenario() -> None:
        async with boxes() as [(a, own)]:
            for channel in Channel:
                a.endpoint.send(Packet(own, b"me", channel))
            assert {packet.channel for packet in await a.received(2)} == set(Channel)

    run(scenario)


def test_more_datagrams_than_one_wake_up_reads_all_arrive() -> None:
    async def scenario() -> None:
        async with boxes(2) as [(a, _), (b, target)]:
            for number in range(500):
                a.endpoint.send(Packet(target, number.to_bytes(2, "big"), Channel.DATAGRAM))
            packets = await b.received(500)
            assert [int.from_bytes(packet.data, "big") for packet in packets] == list(range(500))

    run(scenario)


@pytest.mark.parametrize("channel", Channel)
def test_a_callback_that_raises_is_reported_and_the_endpoint_goes_on(channel: Channel) -> None:
    async def scenario() -> None:
        reported: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: reported.append(what))
        seen: list[bytes] = []

        def fail(packet: Packet) -> None:
            seen.append(packet.data)
            raise RuntimeError("on purpose")

        endpoint = Endpoint(fail)
        target = await endpoint.open(LOCAL)
        async with boxes() as [(a, _)]:
            for data in (b"1", b"2"):
                a.endpoint.send(Packet(target, data, channel))
            await a.until(lambda: len(seen) == len(reported) == 2)
        await endpoint.close()
        assert [str(what["exception"]) for what in reported] == ["on purpose"] * 2

    run(scenario)


# opening and closing -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_port_in_use_is_named_and_nothing_stays_open(kind: socket.SocketKind) -> None:
    async def scenario() -> None:
        with socket.socket(socket.AF_INET, kind) as other:
            other.bind(LOCAL)
            if kind is socket.SOCK_STREAM:
                other.listen()
            taken = Address(*other.getsockname())
            with pytest.raises(PortInUse, match=f"{taken} is taken: .* give another --listen"):
                await Endpoint(print).open(taken)
        async with boxes(listen=taken) as [(_, address)]:
            assert address == taken

    run(scenario)


@pytest.mark.parametrize("host", ["192.0.2.1", "localhost", "2001:db8::1"])
def test_an_address_that_cannot_be_used_is_named(host: str) -> None:
    async def scenario() -> None:
        with pytest.raises(P2PError, match=host):
            await Endpoint(print).open(Address(host, 0))

    run(scenario)


def test_an_endpoint_that_was_closed_frees_its_port_at_once() -> None:
    async def scenario() -> None:
        async with boxes() as [(a, address)]:
            a.endpoint.send(Packet(address, b"x" * 100_000, Channel.STREAM))
            await a.received(1)
        async with boxes(listen=address):
            pass

    run(scenario)


def test_closing_breaks_off_what_is_under_way_in_both_directions() -> None:
    async def scenario() -> None:
        async with boxes(2) as [(a, _), (b, target)]:
            reader, writer = await asyncio.open_connection(*target)
            idle, silent = await asyncio.open_connection(*target)
            writer.write(post(1000) + b"half")
            with socket.create_server(LOCAL) as deaf:
                a.endpoint.send(
                    Packet(Address(*deaf.getsockname()), bytes(50_000_000), Channel.STREAM)
                )
                await b.until(lambda: b.endpoint._inbox._pending == 4)
                await a.endpoint.close()
                await b.endpoint.close()
            for stream in (reader, idle):
                with suppress(ConnectionResetError):
                    assert await stream.read() == b""
            writer.close()
            silent.close()
            assert b.packets == []
            assert a.traffic.dropped_out == b.traffic.dropped_in == 1
            await a.endpoint.close()  # a second time does nothing

    run(scenario)


def test_sending_while_not_open_drops() -> None:
    async def scenario() -> None:
        async with boxes() as [(_, target)]:
            endpoint = Endpoint(print)
            await endpoint.close()
            for channel in Channel:
                endpoint.send(Packet(target, b"x", channel))
            assert endpoint.traffic == Traffic(dropped_out=2)

    run(scenario)


# a network that fails ----------------------------------------------------------------------------


def test_sending_to_where_nobody_is_neither_raises_nor_leaks() -> None:
    async def scenario() -> None:
        with socket.socket() as free:
            free.bind(LOCAL)
            dead = Address(*free.getsockname())
        async with boxes() as [(a, _)]:
            for number in range(8):
                a.endpoint.send(Packet(dead, bytes([number]) * 9, Channel.DATAGRAM))
                a.endpoint.send(Packet(dead, bytes([number]) * 9, Channel.STREAM))
            await a.until(lambda: a.traffic.dropped_out == 8)
            assert a.traffic.packets_sent == 8  # UDP does not know
            assert a.endpoint._outbox._lanes == {}

    run(scenario)


@pytest.mark.parametrize("channel", Channel)
@pytest.mark.parametrize("host", ["example.invalid", "::1", "", "\0", "255.255.255.255"])
def test_an_address_that_cannot_be_sent_to_drops(host: str, channel: Channel) -> None:
    async def scenario() -> None:
        async with boxes() as [(a, _)]:
            a.endpoint.send(Packet(Address(host, 1), b"x", channel))
            await a.until(lambda: a.traffic.dropped_out == 1)

    run(scenario)


def test_a_datagram_that_is_too_long_is_our_own_mistake() -> None:
    async def scenario() -> None:
        async with boxes() as [(a, own)]:
            with pytest.raises(ValueError, match="1201 bytes are above 1200"):
                a.endpoint.send(Packet(own, bytes(MAX_DATAGRAM + 1), Channel.DATAGRAM))

    run(scenario)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x16\x03\x01 this is not HTTP",
        b"HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 204 Fine\r\nContent-Length: 99999999\r\n\r\nand so on",
        b"HTTP/1.1 302 There\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 413 Big\r\n" + b"X: y\r\n" * 100_000,
    ],
    ids=["nothing", "no HTTP", "an error", "more than it says", "a redirect", "endless headers"],
)
def test_whatever_is_answered_to_a_stream_it_is_over(answer: bytes) -> None:
    async def scenario() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(100)
            writer.write(answer)
            writer.close()

        server = await asyncio.start_server(serve, *LOCAL)
        async with boxes() as [(a, _)]:
            a.endpoint.send(
                Packet(Address(*server.sockets[0].getsockname()), bytes(9_000_000), Channel.STREAM)
            )
            await a.until(lambda: a.traffic.dropped_out + a.traffic.packets_sent == 1)
        server.close()

    run(scenario)


def test_a_stream_that_nobody_reads_is_given_up() -> None:
    async def scenario() -> None:
        with socket.create_server(LOCAL) as deaf:
            async with boxes(config=EndpointConfig(stall=0.05)) as [(a, _)]:
                target = Address(*deaf.getsockname())
                for size in (30_000_000, 30_000_001):
                    a.endpoint.send(Packet(target, bytes(size), Channel.STREAM))
                await a.until(lambda: a.traffic.dropped_out == 2)
                assert a.endpoint._outbox._lanes == {}

    run(scenario)


# limits on what waits to be sent -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "sizes", "dropped"),
    [
        (EndpointConfig(most_waiting=2), [1, 2, 3, 4], 2),
        (EndpointConfig(lane_bytes=10), [100, 1, 2], 2),
        (EndpointConfig(lane_bytes=10), [1, 100, 2], 1),
        (EndpointConfig(pending_bytes=10), [11, 6, 4, 1], 2),
        (EndpointConfig(), [5, 5, 5], 2),
    ],
    ids=["count", "one big", "bytes", "bytes in all", "the same again"],
)
def test_what_does_not_fit_behind_what_waits_is_dropped(
    config: EndpointConfig, sizes: list[int], dropped: int
) -> None:
    async def scenario() -> None:
        with socket.create_server(LOCAL) as deaf:
            async with boxes(config=config) as [(a, _)]:
                for size in sizes:
                    packet = Packet(Address(*deaf.getsockname()), bytes(size), Channel.STREAM)
                    a.endpoint.send(packet)
                assert a.traffic.dropped_out == dropped

    run(scenario)


def test_streams_wait_for_so_many_destinations_only() -> None:
    async def scenario() -> None:
        async with boxes(config=EndpointConfig(most_connections=3)) as [(a, _)]:
            for port in range(1, 6):
                a.endpoint.send(Packet(Address("127.0.0.1", port), b"x", Channel.STREAM))
            assert a.traffic.dropped_out == 2

    run(scenario)


# strangers ---------------------------------------------------------------------------------------


POST = b"POST /v1/packet HTTP/1.1\r\nHost: x\r\n"
GARBAGE = [
    b"\0",
    b"\r\n\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    POST + b"Content-Length: -1\r\n\r\n",
    POST + b"Content-Length: 9999999999999999999999\r\n\r\n",
    POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nzz\r\n",
    POST + b"Content-Length: 9\r\nContent-Encoding: gzip\r\n\r\nabc",
    POST + b"Upgrade: websocket\r\nConnection: upgrade\r\n\r\nabcdefg",
    POST + b"X: y\r\n" * 10_000 + b"\r\n",
    b"POST http://[::bad/v1/packet HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    b"POST /v1/packet?\xff\xfe HTTP/9.9\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: x\r\n\r\n" + bytes(100),
    b"GET /" + b"x" * 100_000,
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 500,
    *(random.Random(seed).randbytes(2000) for seed in range(20)),
]


def test_garbage_at_both_ports_changes_nothing_and_logs_nothing(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    async def scenario() -> None:
        async with boxes(2, config=EndpointConfig(idle=0.2, stall=0.2)) as [(a, _), (b, target)]:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                for blob in GARBAGE:
                    stranger.sendto(blob[:60_000], target)
            answers = await asyncio.gather(
                *(request(target, blob, eof=eof) for blob in GARBAGE for eof in (True, False))
            )
            assert not any(b"Python" in answer for answer in answers)
            expected = [blob for blob in GARBAGE if len(blob) <= MAX_DATAGRAM]
            await b.until(lambda: b.traffic.packets_received >= len(expected))
            assert [packet.data for packet in b.packets] == expected
            a.endpoint.send(Packet(target, b"still here", Channel.STREAM))
            assert (await b.received(len(expected) + 1))[-1].data == b"still here"
            assert b.endpoint._inbox._pending == 0

    with caplog.at_level(logging.WARNING):
        run(scenario)
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (post(1001), 413),
        (post(10**15), 413),
        (
            b"POST /v1/packet HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            411,
        ),
        (POST + b"\r\n", 411),
        (post(0).replace(b"packet", b"other"), 404),
        (post(0).replace(b"POST", b"PUT"), 404),
        (b"no HTTP\r\n\r\n", 400),
        (post(1000) + bytes(999), 408),
        (post(901) + bytes(901), 503),
    ],
)
def test_a_request_that_is_not_a_packet_is_refused_and_the_connection_closed(
    message: bytes, status: int
) -> None:
    config = EndpointConfig(stall=0.05, pending_bytes=900)
    if status == 408:
        config = EndpointConfig(stall=0.05)

    async def scenario() -> None:
        async with boxes(max_stream=1000, config=config) as [(a, address)]:
            answer = await request(address, message)
            assert answer.startswith(f"HTTP/1.{answer[7:8].decode()} {status} ".encode())
            assert a.packets == []
            assert a.endpoint._inbox._pending == 0

    run(scenario)


def test_a_body_that_trickles_is_cut_off_although_it_never_stands_still() -> None:
    async def scenario() -> None:
        async with boxes(config=EndpointConfig(stall=0.2, slowest=1e6)) as [(a, address)]:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(post(1_000_000))
            while not reader.at_eof() and not reader._buffer:  # type: ignore[attr-defined]
                writer.write(b"x")
                await asyncio.sleep(0.01)
            assert (await reader.readline()).split()[1] == b"408"
            writer.transport.abort()
            assert a.packets == []

    run(scenario)


@pytest.mark.parametrize("start", [b"", b"POST /v1/packet HTTP/1.1\r\nHost: x\r\nContent-"])
def test_a_connection_that_sends_no_request_is_closed(start: bytes) -> None:
    async def scenario() -> None:
        async with boxes(config=EndpointConfig(idle=0.05)) as [(_, address)]:
            assert await request(address, start) == b""

    run(scenario)


def test_a_header_that_trickles_is_cut_off() -> None:
    async def scenario() -> None:
        async with boxes(config=EndpointConfig(idle=0.1)) as [(_, address)]:
            reader, writer = await asyncio.open_connection(*address)
            end, begun = asyncio.ensure_future(reader.read()), False
            while not end.done():
                writer.write(b"X" if begun else b"POST / HTTP/1.1\r\nX")
                begun = True
                await asyncio.sleep(0.01)
            assert end.exception() is not None or end.result() == b""
            writer.transport.abort()

    run(scenario)


def test_connections_over_the_limit_are_refused_until_others_end() -> None:
    async def scenario() -> None:
        async with boxes(config=EndpointConfig(most_connections=4)) as [(a, address)]:
            held = [await asyncio.open_connection(*address) for _ in range(4)]
            await a.until(lambda: len(a.endpoint._inbox.connections) == 4)
            for _ in range(20):
                assert await request(address, post(1), b"x") == b""
            assert a.traffic.dropped_in == 20
            for _, writer in held:
                writer.close()
            await a.until(lambda: not a.endpoint._inbox.connections)
            answer = await request(address, post(1, "Connection: close"), b"x")
            assert b" 204 " in answer
            assert len(a.packets) == 1

    run(scenario)


def test_one_address_holds_its_share_of_connections_and_loopback_any() -> None:
    class Caller:
        def __init__(self, host: str) -> None:
            self.peer = Address(host, 1)

    async def scenario() -> None:
        async with boxes(config=EndpointConfig(most_per_address=2)) as [(a, _)]:
            inbox = a.endpoint._inbox
            hosts = ["192.0.2.1"] * 3 + ["192.0.2.2", "2001:db8::1", "2001:db8::2", "2001:db8::3"]
            callers = [Caller(host) for host in hosts + ["127.0.0.1"] * 5]
            admitted = [inbox.admit(caller) for caller in callers]  # type: ignore[arg-type]
            assert admitted == [True] * 2 + [False] + [True] * 3 + [False] + [True] * 5
            inbox.connections.clear()

    run(scenario)


def test_a_client_that_vanishes_in_the_middle_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        async with boxes() as [(a, address)]:
            for _ in range(5):
                _, writer = await asyncio.open_connection(*address)
                writer.write(post(1_000_000) + bytes(500_000))
                await a.until(lambda: a.endpoint._inbox._pending > 0)
                writer.transport.abort()
                await a.until(lambda: not a.endpoint._inbox.connections)
            await a.until(lambda: a.endpoint._inbox._pending == 0)
            assert a.packets == []

    run(scenario)


def test_oversized_datagrams_are_dropped_and_counted() -> None:
    async def scenario() -> None:
        async with boxes() as [(a, address)]:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                for size in (MAX_DATAGRAM + 1, 60_000, 0, MAX_DATAGRAM):
                    stranger.sendto(bytes(size), address)
            assert [len(packet.data) for packet in await a.received(2)] == [0, MAX_DATAGRAM]
            assert a.traffic.dropped_in == 2

    run(scenario)


def test_the_deadline_of_a_body_allows_neither_standing_still_nor_crawling() -> None:
    config = EndpointConfig(stall=30.0, slowest=1000.0)
    assert config.deadline(began=0.0, now=0.0, moved=0) == 30.0
    assert config.deadline(began=0.0, now=5.0, moved=10**9) == 35.0
    assert config.deadline(began=0.0, now=25.0, moved=10_000) == 40.0
