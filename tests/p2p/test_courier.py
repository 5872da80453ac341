"""Streams in datagrams, over networks that lose, repeat and reorder them."""

from __future__ import annotations

import sys
from heapq import heappop, heappush
from math import inf
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.courier import Arrived, Courier, CourierConfig, Delivered, Event, GivenUp
from p2p.frames import FRAGMENT, MARK, SEEN, Fragment, Receipt, change, decode, is_frame, ticks
from p2p.packet import MAX_DATAGRAM
from p2p.peer import Address, PeerId
from p2p.sessions import Destination

PEERS = [Destination(Address(f"10.0.0.{n}", 7946), PeerId(bytes([n]) * 32)) for n in range(1, 5)]
MAX = 200 * FRAGMENT
numbers64, numbers32 = st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1)


class World:
    """Couriers on one network."""

    def __init__(
        self,
        seed: int = 0,
        *,
        count: int = 2,
        loss: float = 0.0,
        duplicate: float = 0.0,
        latency: tuple[float, float] = (0.02, 0.02),
        config: CourierConfig | None = None,
    ) -> None:
        self.now = 0.0
        self.rng = Random(seed)
        self.loss, self.duplicate, self.latency = loss, duplicate, latency
        self.couriers = [
            Courier(config or CourierConfig(), MAX, self.rng.randbytes) for _ in range(count)
        ]
        self.events: list[list[Event]] = [[] for _ in range(count)]
        self.sent_at = [0] * count  # datagrams
        self.lose: set[int] = set()  # which datagrams of the first courier
        self.cut: set[tuple[int, int]] = set()  # (from, to) between whom nothing passes
        self._heap: list[tuple[float, int, int, int, bytes]] = []
        self._count = 0

    def send(self, source: int, target: int, data: bytes, patience: float = 30.0) -> bool:
        taken = self.couriers[source].send(PEERS[target], data, patience, self.now)
        self.pump()
        return taken

    def pump(self) -> None:
        for source, courier in enumerate(self.couriers):
            while (out := courier.poll_transmit(self.now)) is not None:
                to, datagram = out
                assert is_frame(datagram)
                assert len(datagram) <= MAX_DATAGRAM
                if source or self.sent_at[0] not in self.lose:
                    self._carry(source, PEERS.index(to), datagram)
                self.sent_at[source] += 1

    def _carry(self, source: int, target: int, datagram: bytes) -> None:
        if (source, target) in self.cut:
            return
        for _ in range(2 if self.rng.random() < self.duplicate else 1):
            if self.rng.random() >= self.loss:
                self._count += 1
                at = self.now + self.rng.uniform(*self.latency)
                heappush(self._heap, (at, self._count, source, target, datagram))

    def run(self, until: float = inf) -> None:
        """Let time pass; without end, until nobody has anything to send and nothing is left."""
        while True:
            arrival = self._heap[0][0] if self._heap else inf
            due = min(courier.next_timeout() for courier in self.couriers)
            at = min(arrival, due)
            busy = self._heap or any(courier.waiting for courier in self.couriers)
            if at > until or (until == inf and not busy):
                break
            self.now = max(at, self.now)
            if arrival <= due:
                _, _, source, target, datagram = heappop(self._heap)
                courier = self.couriers[target]
                self.events[target] += courier.receive(PEERS[source], datagram, self.now)
            else:
                for number, courier in enumerate(self.couriers):
                    self.events[number] += courier.handle_timeout(self.now)
            self.pump()
        if until < inf:
            self.now = until

    def arrived(self, at: int) -> list[bytes]:
        return [event.data for event in self.events[at] if isinstance(event, Arrived)]

    def of(self, kind: type[Event], at: int) -> list[Event]:
        return [event for event in self.events[at] if isinstance(event, kind)]


# what works ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, FRAGMENT - 1, FRAGMENT, FRAGMENT + 1, 50_000, MAX])
def test_a_stream_of_any_size_arrives_whole(size: int) -> None:
    world = World()
    data = world.rng.randbytes(size)
    assert world.send(0, 1, data)
    world.run()
    assert world.events == [[Delivered(PEERS[1])], [Arrived(data)]]
    assert world.couriers[0].waiting == world.couriers[0].waiting_bytes == 0
    assert world.couriers[1].unfinished == world.couriers[1].unfinished_bytes == 0


@given(
    seed=st.integers(0, 2**32),
    loss=st.floats(0.0, 0.4),
    duplicate=st.floats(0.0, 0.4),
    spread=st.floats(0.0, 0.3),
    sizes=st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 30 * FRAGMENT)),
        min_size=1,
        max_size=8,
    ),
)
@settings(max_examples=60)
def test_whatever_is_lost_repeated_and_reordered_each_stream_arrives_once_and_whole(
    seed: int,
    loss: float,
    duplicate: float,
    spread: float,
    sizes: list[tuple[int, int, int]],
) -> None:
    world = World(seed, count=3, loss=loss, duplicate=duplicate, latency=(0.01, 0.01 + spread))
    expected: list[list[bytes]] = [[] for _ in range(3)]
    for number, (source, target, size) in enumerate(sizes):
        data = bytes([number]) + world.rng.randbytes(size)
        assert world.send(source, target, data, patience=600.0)
        expected[target].append(data)
    world.run()
    for number, courier in enumerate(world.couriers):
        assert sorted(world.arrived(number)) == sorted(expected[number])
        assert courier.waiting == courier.unfinished == courier.unfinished_bytes == 0
    assert sum(len(world.of(Delivered, number)) for number in range(3)) == len(sizes)


def test_without_loss_nothing_is_sent_twice() -> None:
    world = World()
    world.send(0, 1, bytes(100 * FRAGMENT))
    world.run()
    assert world.sent_at[0] == 100
    assert world.sent_at[1] <= 50  # a receipt serves for several


def test_a_stream_of_a_few_datagrams_takes_a_few_round_trips() -> None:
    world = World()
    world.send(0, 1, bytes(14 * FRAGMENT))
    world.run()
    assert world.now == pytest.approx(3 * 0.04, abs=0.001)  # 2, 4, and 8 datagrams


def test_a_lost_datagram_costs_a_round_trip_more_and_not_a_timeout() -> None:
    world = World()
    world.lose = {2}  # the first of the second round
    world.send(0, 1, bytes(14 * FRAGMENT))
    world.run()
    assert world.arrived(1) == [bytes(14 * FRAGMENT)]
    assert world.now < 5 * 0.04 + 0.001
    assert world.sent_at[0] == 15


def test_streams_to_several_peers_take_turns() -> None:
    world = World(count=3)
    for target in (1, 2):
        world.send(0, target, bytes(100 * FRAGMENT))
    world.run()
    assert [len(world.arrived(target)) for target in (1, 2)] == [1, 1]


def test_a_peer_that_moves_to_another_address_gets_the_rest_there() -> None:
    world = World()
    data = world.rng.randbytes(50 * FRAGMENT)
    world.send(0, 1, data)
    world.run(0.05)
    moved = Destination(Address("10.0.0.99", 1), PEERS[0].peer)
    PEERS.append(moved)
    try:
        frames = [
            world.couriers[1].receive(moved, datagram, world.now)
            for *_, target, datagram in world._heap
            if target == 1
        ]
        assert frames
        world.run()
    finally:
        PEERS.remove(moved)
    assert world.arrived(1) == [data]


# what does not ------------------------------------------------------------------------------------


def test_a_peer_that_does_not_answer_is_given_up_after_the_patience_that_was_asked_for() -> None:
    world = World()
    world.cut.add((0, 1))
    world.send(0, 1, b"a", patience=1.0)
    world.send(0, 1, b"b", patience=5.0)
    world.run(0.99)
    assert world.events[0] == []
    world.run(4.99)
    assert world.events[0] == [GivenUp(PEERS[1], b"a")]
    world.run(5.01)
    assert world.events[0][1:] == [GivenUp(PEERS[1], b"b")]
    assert world.sent_at[0] < 20
    assert world.couriers[0].waiting == world.couriers[0].waiting_bytes == 0


def test_a_peer_that_answers_slowly_is_not_given_up() -> None:
    world = World(loss=0.2)
    world.send(0, 1, bytes(MAX), patience=2.0)
    world.run()
    assert world.now > 2.0
    assert world.arrived(1) == [bytes(MAX)]


def test_after_giving_up_the_next_stream_arrives() -> None:
    world = World()
    world.cut.add((0, 1))
    world.send(0, 1, bytes(5 * FRAGMENT), patience=1.0)
    world.run(2.0)
    world.cut.clear()
    world.send(0, 1, b"again")
    world.run()
    assert world.arrived(1) == [b"again"]


def test_lost_receipts_cost_repeats_but_deliver_nothing_twice() -> None:
    world = World()
    world.cut.add((1, 0))
    world.send(0, 1, bytes(2 * FRAGMENT), patience=2.0)
    world.run(3.0)
    assert world.arrived(1) == [bytes(2 * FRAGMENT)]
    assert len(world.of(GivenUp, 0)) == 1


def test_a_sender_that_restarts_is_understood_and_what_is_late_changes_nothing() -> None:
    world = World()
    world.send(0, 1, b"before")
    late = [entry[-1] for entry in world._heap]
    world.run()
    world.couriers[0] = Courier(CourierConfig(), MAX, world.rng.randbytes)
    world.send(0, 1, b"after")
    world.run()
    for datagram in late:
        assert world.couriers[1].receive(PEERS[0], datagram, world.now) == []
    assert world.arrived(1) == [b"before", b"after"]


def test_receipts_from_somebody_else_are_not_believed() -> None:
    world = World(count=3)
    world.send(0, 1, b"x")
    (flow,) = world.couriers[0]._by_id
    forged = Receipt(flow, 0, 0, 0, 1).encode()
    assert world.couriers[0].receive(PEERS[2], forged, 0.0) == []
    assert world.couriers[0].receive(PEERS[1], forged, 0.0) == [Delivered(PEERS[1])]


# limits -------------------------------------------------------------------------------------------


def test_what_waits_is_limited_in_streams_bytes_and_destinations() -> None:
    world = World(count=4, config=CourierConfig(most_waiting=2, most_destinations=2))
    world.cut |= {(0, target) for target in (1, 2, 3)}
    assert [world.send(0, 1, data) for data in (b"1", b"1", b"2", b"3")] == [1, 0, 1, 0]
    assert [world.send(0, target, b"x") for target in (2, 3)] == [True, False]
    assert (world.couriers[0].waiting, world.couriers[0].waiting_bytes) == (3, 3)
    world = World(config=CourierConfig(waiting_bytes=10))
    world.cut.add((0, 1))
    assert [world.send(0, 1, bytes(size)) for size in (11, 6, 5, 4)] == [0, 1, 0, 1]


def fragment(transfer: int, place: int, size: int, flow: int = 1, number: int = 0) -> bytes:
    data = bytes(min(FRAGMENT, size - place * FRAGMENT))
    return Fragment(flow, number, transfer, size, place, 0, False, data).encode()


def test_what_is_only_announced_takes_no_memory() -> None:
    courier = Courier(CourierConfig(), 1 << 31, Random(0).randbytes)
    before = sys.getallocatedblocks()
    assert courier.receive(PEERS[0], fragment(0, 1000, 1 << 31), 0.0) == []
    assert courier.unfinished_bytes == FRAGMENT
    assert sys.getallocatedblocks() - before < 100
    assert courier.receive(PEERS[0], fragment(1, 0, (1 << 31) + 1), 0.0) == []
    assert courier.unfinished == 1


def test_unfinished_streams_are_limited_and_what_finds_no_room_is_not_acknowledged() -> None:
    config = CourierConfig(unfinished_bytes=20 * FRAGMENT, most_unfinished=4)
    courier = Courier(config, MAX, Random(0).randbytes)
    for number in range(200):  # many streams of one source
        courier.receive(PEERS[0], fragment(number, 0, MAX, number=number), 0.0)
    assert courier.unfinished == 4
    courier.handle_timeout(0.02)
    out = courier.poll_transmit(0.02)
    assert out is not None
    receipt = decode(out[1])
    assert isinstance(receipt, Receipt)
    assert (receipt.newest, receipt.seen) == (3, 0b1111)
    for place in range(200):  # much of one stream, of several sources
        for source in PEERS:
            courier.receive(source, fragment(0, place, MAX, number=place), 0.0)
        assert courier.unfinished_bytes <= 20 * FRAGMENT
    courier = Courier(config, MAX, Random(0).randbytes)
    for place in range(200):  # one source gets half
        courier.receive(PEERS[0], fragment(0, place, MAX, number=place), 0.0)
    assert courier.unfinished_bytes == 10 * FRAGMENT


def test_what_a_sender_has_given_up_is_dropped_for_what_it_sends_later() -> None:
    courier = Courier(CourierConfig(most_unfinished=2, forget=60.0), MAX, Random(0).randbytes)
    for number, now, taken in ((0, 0.0, True), (1, 1.0, True), (2, 59.0, False), (3, 60.5, True)):
        courier.receive(PEERS[0], fragment(number, 0, MAX, number=number), now)
        courier.handle_timeout(now)
        (flow,) = courier._sources[PEERS[0].peer or PEERS[0].address][0]._flows.values()
        assert (number in flow._unfinished) == taken
    assert courier.unfinished == 2
    assert courier.unfinished_bytes == 2 * FRAGMENT


def test_sources_are_limited_and_forgotten_when_they_are_silent() -> None:
    config = CourierConfig(most_sources=3, forget=60.0)
    courier = Courier(config, MAX, Random(0).randbytes)
    for source in PEERS:
        courier.receive(source, fragment(0, 0, MAX), 0.0)
    assert courier.unfinished == 3
    for now, left in ((0.1, 3), (50.0, 3), (59.9, 3), (60.1, 1), (109.9, 1), (111.0, 0)):
        if now == 50.0:
            courier.receive(PEERS[1], fragment(0, 1, MAX, number=1), now)
        courier.handle_timeout(now)
        while courier.poll_transmit(now):
            pass
        assert courier.unfinished == left
    assert courier.unfinished_bytes == 0
    assert courier.next_timeout() == inf


def test_a_peer_that_keeps_sending_does_not_make_us_keep_timers() -> None:
    world = World()
    world.send(0, 1, b"x")
    (flow,) = world.couriers[0]._by_id
    world.run(1.0)
    for number in range(2000):
        now = 1.0 + number * 0.001
        world.couriers[0].receive(PEERS[1], Receipt(flow, 0, 0, 0, 1).encode(), now)
        world.couriers[1].receive(PEERS[0], fragment(5, 0, MAX, 9, number), now)
        for courier in world.couriers:
            courier.handle_timeout(now)
            while courier.poll_transmit(now):
                pass
    for courier in world.couriers:
        assert len(courier._lane_timers._heap) + len(courier._receipt_timers._heap) < 20


def test_one_source_that_begins_flow_after_flow_holds_two() -> None:
    courier = Courier(CourierConfig(), MAX, Random(0).randbytes)
    for flow in range(100):
        courier.receive(PEERS[0], fragment(0, 0, MAX, flow=flow), 0.0)
    assert courier.unfinished == 2
    assert courier.unfinished_bytes == 2 * FRAGMENT


def test_a_flow_that_is_not_used_is_forgotten() -> None:
    world = World()
    world.send(0, 1, b"x")
    world.run(200.0)
    assert world.couriers[0]._lanes == world.couriers[0]._by_id == {}
    assert all(courier.next_timeout() == inf for courier in world.couriers)


# bytes --------------------------------------------------------------------------------------------


@given(
    st.builds(Receipt, numbers64, numbers64, numbers32, numbers32, st.integers(0, (1 << SEEN) - 1))
)
def test_decode_inverts_encode_for_receipts(receipt: Receipt) -> None:
    assert decode(receipt.encode()) == receipt
    assert decode(receipt.encode()[:-1]) is None
    assert decode(receipt.encode() + b"\0") is None


@given(
    numbers64,
    numbers64,
    numbers64,
    st.integers(0, 10 * FRAGMENT),
    numbers32,
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_decode_inverts_encode_for_fragments(
    flow: int, number: int, transfer: int, size: int, clock: int, prompt: bool, rng: Random
) -> None:
    place = rng.randrange(max(1, -(-size // FRAGMENT)))
    data = rng.randbytes(min(FRAGMENT, size - place * FRAGMENT))
    one = Fragment(flow, number, transfer, size, place, clock, prompt, data)
    assert decode(one.encode()) == one
    assert decode(one.encode() + b"\0") is None
    assert not data or decode(one.encode()[:-1]) is None


@given(st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=80), st.integers(0, 3))))
@settings(max_examples=300)
def test_no_bytes_make_receive_raise(datagrams: list[tuple[int, bytes, int]]) -> None:
    world = World()
    world.send(0, 1, bytes(3 * FRAGMENT))
    courier = world.couriers[0]
    (flow,) = courier._by_id
    for kind, data, source in datagrams:
        head = bytes([MARK, kind])
        for datagram in (data, head + data, head + flow.to_bytes(8, "big") + data):
            courier.receive(PEERS[source], datagram, world.now)
    world.pump()
    assert courier.unfinished_bytes <= 80 * 3 * len(datagrams)


@given(
    st.lists(
        st.builds(
            Fragment,
            st.integers(0, 3),
            st.integers(0, 2**64 - 1) | st.integers(0, 600),
            st.integers(0, 9000) | st.integers(0, 2**64 - 1),
            st.integers(0, 3 * FRAGMENT),
            st.integers(0, 3),
            numbers32,
            st.booleans(),
            st.sampled_from([0, 1, FRAGMENT - 1, FRAGMENT]).map(bytes),
        )
    )
)
@settings(max_examples=200)
def test_fragments_that_make_no_sense_neither_raise_nor_pile_up(fragments: list[Fragment]) -> None:
    courier = Courier(CourierConfig(most_unfinished=2), MAX, Random(0).randbytes)
    for number, one in enumerate(fragments):
        now = number * 0.01
        for event in courier.receive(PEERS[0], one.encode(), now):
            assert isinstance(event, Arrived)
        courier.handle_timeout(now)
        while courier.poll_transmit(now):
            pass
        assert courier.unfinished <= 2 * 2
        assert courier.unfinished_bytes <= len(fragments) * FRAGMENT


@given(
    st.lists(
        st.builds(
            Receipt,
            st.just(0),
            st.integers(0, 40) | numbers64,
            numbers32,
            numbers32,
            st.integers(0, (1 << SEEN) - 1),
        ),
        max_size=30,
    )
)
@settings(max_examples=200)
def test_receipts_that_make_no_sense_do_not_raise(receipts: list[Receipt]) -> None:
    world = World()
    world.cut.add((0, 1))
    data = bytes(30 * FRAGMENT)
    world.send(0, 1, data)
    (flow,) = world.couriers[0]._by_id
    for receipt in receipts:
        world.run(world.now + 0.05)
        world.couriers[0].receive(PEERS[1], receipt._replace(flow=flow).encode(), world.now)
        world.pump()
    world.run(world.now + 1000.0)
    assert world.couriers[0].waiting == 0


def test_nothing_in_msgpack_begins_like_a_frame() -> None:
    assert MARK == 0xC1  # the one byte that msgpack's specification calls "never used"
    assert not is_frame(b"")


@given(numbers32, st.floats(-2000.0, 2000.0))
def test_a_change_of_a_clock_is_told_whether_it_wraps_or_not(start: int, seconds: float) -> None:
    later = (start + round(seconds * 1e6)) % (1 << 32)
    assert change(later, start) == pytest.approx(seconds, abs=2e-6)
    assert ticks(1e9 + 0.5) == (10**15 + 500_000) % (1 << 32)
