"""Windows that leave the line to others, on a narrow line in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from math import inf
from random import Random
from typing import Any

import pytest

from p2p.courier import Courier, CourierConfig
from p2p.frames import Receipt, decode
from p2p.ledbat import BUCKETS, BURST, LEAST, TARGET, Least, Ledbat, Pacer
from p2p.packet import MAX_DATAGRAM
from p2p.peer import Address
from p2p.sessions import Destination

RATE = 1.25e6  # bytes a second: 10 Mbit/s
ONE_WAY = 0.025  # seconds
HOLDS = RATE * 2 * ONE_WAY  # bytes that are on the line itself
BUFFER = 4 * HOLDS
SENDER = Destination(Address("10.0.0.1", 1), None)
RECEIVER = Destination(Address("10.0.0.2", 1), None)


class Line:
    """A narrow line with a queue before it, and a way back that is as long and wide."""

    def __init__(self, buffer: float = BUFFER) -> None:
        self.now = 0.0
        self.queues: list[tuple[float, float]] = []  # when, and seconds of queue
        self._buffer = buffer
        self._free = 0.0  # when the line will be
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        self.call_at(0.0, self._look)

    def call_at(self, at: float, action: Callable[..., None], *arguments: Any) -> None:
        self._count += 1
        heappush(self._heap, (at, self._count, action, arguments))

    def forth(self, size: int, action: Callable[..., None], *arguments: Any) -> None:
        """Through the queue; what finds it full is lost."""
        queue = max(self._free - self.now, 0.0)
        if queue * RATE + size <= self._buffer:
            self._free = self.now + queue + size / RATE
            self.call_at(self._free + ONE_WAY, action, *arguments)

    def back(self, action: Callable[..., None], *arguments: Any) -> None:
        self.call_at(self.now + ONE_WAY, action, *arguments)

    def run(self, until: float) -> None:
        while self._heap[0][0] <= until:
            self.now, _, action, arguments = heappop(self._heap)
            action(*arguments)

    def _look(self) -> None:
        self.queues.append((self.now, max(self._free - self.now, 0.0)))
        self.call_at(self.now + 0.01, self._look)

    def queue(self, since: float, quantile: float) -> float:
        """Seconds that so many of all the moments since then did not exceed."""
        queues = sorted(queue for at, queue in self.queues if at >= since)
        return queues[int(quantile * (len(queues) - 1))]


class Upload:
    """A courier that always has more to send, and the one that it sends to."""

    def __init__(self, line: Line, seed: int, start: float = 0.0, jitter: float = 0.0) -> None:
        self.arrived: list[tuple[float, int]] = []
        self.clock = 0.0  # seconds that the receiver's clock is ahead
        self._line = line
        self._jitter = jitter  # seconds
        self._rng = Random(seed)
        self._sender, self._receiver = (
            Courier(CourierConfig(), 1 << 20, self._rng.randbytes) for _ in range(2)
        )
        self._alarms = {self._sender: inf, self._receiver: inf}
        line.call_at(start, self._pump)

    @property
    def window(self) -> float:
        (lane,) = self._sender._lanes.values()
        return lane.flow.congestion.window

    def rate(self, since: float, until: float) -> float:
        """Bytes a second that arrived between the two."""
        return sum(size for at, size in self.arrived if since <= at < until) / (until - since)

    def _pump(self) -> None:
        now = self._line.now
        while self._sender.waiting < 2:
            assert self._sender.send(RECEIVER, self._rng.randbytes(1 << 20), 30.0, now)
        while (out := self._sender.poll_transmit(now)) is not None:
            self._line.forth(len(out[1]), self._on_line, out[1])
        while (out := self._receiver.poll_transmit(now)) is not None:
            self._line.back(self._at_sender, out[1])
        for courier in self._alarms:
            due = courier.next_timeout()
            if due < self._alarms[courier]:
                self._alarms[courier] = due
                self._line.call_at(max(due, now), self._wake, courier)

    def _wake(self, courier: Courier) -> None:
        self._alarms[courier] = inf
        courier.handle_timeout(self._line.now)
        self._pump()

    def _on_line(self, datagram: bytes) -> None:
        late = self._line.now + self._rng.random() * self._jitter
        self._line.call_at(late, self._at_receiver, datagram)

    def _at_receiver(self, datagram: bytes) -> None:
        self.arrived.append((self._line.now, len(datagram)))
        self._receiver.receive(SENDER, datagram, self._line.now)
        self._pump()

    def _at_sender(self, datagram: bytes) -> None:
        receipt = decode(datagram)
        assert isinstance(receipt, Receipt)
        offset = (receipt.offset + int(self.clock * 1e6)) % (1 << 32)
        self._sender.receive(RECEIVER, receipt._replace(offset=offset).encode(), self._line.now)
        self._pump()


class Reno:
    """What TCP does: a datagram more each round trip, half of all on loss (RFC 5681)."""

    def __init__(self, line: Line) -> None:
        self.arrived = 0  # bytes
        self._line = line
        self._window, self._threshold = 2.0, inf  # datagrams
        self._next = self._expected = 0
        self._recovered = 0  # losses before this number are one with the last
        self._on_way = 0
        line.call_at(0.0, self._pump)

    def _pump(self) -> None:
        while self._on_way < self._window:
            self._line.forth(MAX_DATAGRAM, self._at_receiver, self._next)
            self._next += 1
            self._on_way += 1

    def _at_receiver(self, number: int) -> None:
        self.arrived += MAX_DATAGRAM
        self._line.back(self._at_sender, number)

    def _at_sender(self, number: int) -> None:
        self._on_way -= number - self._expected + 1  # what it overtook in a queue is lost
        if number > self._expected and number >= self._recovered:
            self._window = self._threshold = max(self._window / 2, 2.0)
            self._recovered = self._next
        elif self._window < self._threshold:
            self._window += 1
        else:
            self._window += 1 / self._window
        self._expected = number + 1
        self._pump()


# on a line ----------------------------------------------------------------------------------------


def test_one_flow_fills_the_line_and_keeps_the_queue_short() -> None:
    line = Line()
    upload = Upload(line, 1)
    line.run(40.0)
    assert upload.rate(5.0, 40.0) >= 0.85 * RATE
    assert line.queue(0.0, 0.95) <= TARGET + 0.02


def test_a_queue_too_short_for_the_target_is_overfilled_now_and_then_and_used_all_the_same() -> (
    None
):
    line = Line(HOLDS / 2)
    upload = Upload(line, 1)
    line.run(30.0)
    assert upload.rate(5.0, 30.0) >= 0.75 * RATE


def test_datagrams_that_overtake_one_another_are_not_taken_for_lost_for_long() -> None:
    line = Line()
    upload = Upload(line, 1, jitter=0.005)
    line.run(12.0)
    assert upload.rate(6.0, 12.0) >= 0.7 * RATE


def test_beside_one_tcp_it_takes_a_fifth_at_most() -> None:
    line = Line()
    upload, reno = Upload(line, 1), Reno(line)
    line.run(40.0)
    assert upload.rate(0.0, 40.0) <= 0.2 * RATE
    assert reno.arrived >= 0.75 * RATE * 40.0
    assert upload.rate(20.0, 40.0) > 0


@pytest.mark.parametrize("late", [0.0, 10.0])
def test_two_flows_share_the_line_even_if_one_comes_late(late: float) -> None:
    line = Line()
    uploads = [Upload(line, 1), Upload(line, 2, late)]
    line.run(60.0)
    first, second = (upload.rate(late + 10.0, 60.0) for upload in uploads)
    assert (first + second) ** 2 / (2 * (first**2 + second**2)) >= 0.8
    assert first + second >= 0.8 * RATE


@pytest.mark.parametrize("step", [-1.0, 1.0])
def test_a_clock_that_is_set_at_the_receiver_costs_no_more_than_five_seconds(step: float) -> None:
    line = Line()
    upload = Upload(line, 1)
    line.run(20.0)
    upload.clock = step
    line.run(45.0)
    assert upload.rate(25.0, 45.0) >= 0.85 * RATE
    assert line.queue(25.0, 0.95) <= TARGET + 0.02


# alone --------------------------------------------------------------------------------------------


def level(window: float) -> Ledbat:
    """A flow on an empty line of 50 ms, whose window has just stopped to double there."""
    flow = Ledbat()
    flow.measure(0.0, 0.05, 0.0)
    flow.window = 2 * window
    flow.lost(0.0, 0.05, 0.0)
    assert flow.window == window
    return flow


def queued(flow: Ledbat, queue: float, now: float) -> None:
    for _ in range(4):
        flow.measure(queue, 0.05 + queue, now)
    assert flow.queue == pytest.approx(queue)


def test_the_window_grows_below_the_target_and_shrinks_above() -> None:
    for queue, change in ((0.0, 1.0), (TARGET / 2, 0.5), (TARGET, 0.0)):
        flow = level(100 * MAX_DATAGRAM)
        queued(flow, queue, 0.01)
        flow.acknowledged(int(flow.window), 0.05, 0.01, wanted=True)
        assert flow.window == pytest.approx((100 + change) * MAX_DATAGRAM)
    flow = level(100 * MAX_DATAGRAM)
    queued(flow, 1.25 * TARGET, 0.01)
    flow.acknowledged(int(flow.window), 0.05, 0.01, wanted=True)
    assert flow.window == pytest.approx(75 * MAX_DATAGRAM)


def test_a_window_that_is_not_used_does_not_grow() -> None:
    doubling, steady = Ledbat(), level(10 * MAX_DATAGRAM)
    for flow in (doubling, steady):
        before = flow.window
        flow.measure(0.0, 0.05, 0.0)
        flow.acknowledged(MAX_DATAGRAM, 0.05, 0.01, wanted=False)
        assert flow.window == before


def test_losses_of_one_round_trip_halve_the_window_once() -> None:
    flow = level(64 * MAX_DATAGRAM)
    for sent, now, window in ((1.0, 1.1, 32), (1.05, 1.15, 32), (1.1, 1.2, 32), (1.11, 1.3, 16)):
        flow.lost(sent, 0.05, now)
        assert flow.window == window * MAX_DATAGRAM


def test_the_window_is_never_below_two_datagrams() -> None:
    flow = level(4 * MAX_DATAGRAM)
    for number in range(1, 10):
        flow.lost(float(number), 0.05, number + 0.5)
        queued(flow, 1.0, number + 0.5)
        flow.acknowledged(MAX_DATAGRAM, 0.05, number + 0.5, wanted=True)
        flow.rest(100.0)
        flow.collapse(number + 0.5)
        assert flow.window == LEAST


def test_the_least_delay_of_more_than_ten_minutes_ago_is_forgotten() -> None:
    least = Least()
    assert least.value == inf
    for minute, sample in enumerate([1.0, 5.0, 3.0, *[4.0] * 20]):
        least.measure(sample, 60.0 * minute + 30.0)
        assert least.value == (1.0 if minute < BUCKETS else 3.0 if minute < BUCKETS + 2 else 4.0)
    least.measure(9.0, 60.0 * 100)
    assert least.value == 9.0


def test_a_pacer_lets_a_burst_go_and_then_spreads_the_rest_over_the_round_trip() -> None:
    pacer, window, now, left = Pacer(), 100.0 * MAX_DATAGRAM, 0.0, []
    while len(left) < 116:
        ready = pacer.ready(window, 0.1, now)
        if ready > now:
            now = ready
        else:
            pacer.spend(MAX_DATAGRAM)
            left.append(now)
    assert left[BURST // MAX_DATAGRAM - 1] == 0.0 < left[BURST // MAX_DATAGRAM]
    assert left[-1] == pytest.approx(0.08, rel=0.01)  # 100 more, at 1.25 windows in 0.1 s
