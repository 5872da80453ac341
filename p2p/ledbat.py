"""How much may be on its way at a time, so that others on the same line hardly notice.

LEDBAT (RFC 6817) watches how long datagrams wait in the queue before the bottleneck: the one-way
delay now, less the least in ten minutes. It opens its window while that is below a target of 60 ms
and closes it above, long before the queue overflows; whoever reacts to loss only, as TCP does, gets
the line as soon as it wants it.

What RFC 6817 lacks is taken from LEDBAT++ (draft-irtf-iccrg-ledbat-plus-plus): a flow that begins
while another keeps the queue filled takes that queue for the length of the line, and starves the
other. So every flow, once it has reached its window and then a tenth of the time, shrinks to two
datagrams for two round trips, and the queue empties and shows the line as it is. And above the
target the window shrinks in proportion to itself, where RFC 6817 takes one datagram at a time and a
queue that doubling has overfilled would stay for ten seconds.

The two clocks need not agree, but one may be set while we measure. A delay that grew by that shows
no queue: a queue is never taken to be longer than the rise of the round trip. One that shrank by it
makes the queue of that moment the base, until the next slow-down.
"""

from __future__ import annotations

from collections import deque
from math import inf

from p2p.packet import MAX_DATAGRAM

TARGET = 0.060  # seconds of queue that we cause; RFC 6817 allows 0.1
GAIN = 1.0  # datagrams by which the window grows in a round trip, at most
LEAST = 2 * MAX_DATAGRAM  # bytes; the window at first, and always
BUCKETS, BUCKET = 10, 60.0  # how many, and seconds each: how long a least delay counts
FILTER = 4  # delays, of which the least is the one now: others waited for something else
ENOUGH = 0.75 * TARGET  # seconds of queue that end the doubling at first
PACE = 1.25  # of the window in a round trip
BURST = 16 * MAX_DATAGRAM  # bytes that may leave at once
SLOW, EVERY = 2, 9  # round trips of a slow-down, and pauses between two in its durations


class Least:
    """The least value of the last ten minutes."""

    __slots__ = ("_buckets",)

    def __init__(self) -> None:
        self._buckets: deque[tuple[float, float]] = deque(maxlen=BUCKETS)

    @property
    def value(self) -> float:
        """`inf` before the first."""
        return min((least for _, least in self._buckets), default=inf)

    def measure(self, sample: float, now: float) -> None:
        """Take in one sample."""
        minute = now // BUCKET
        while self._buckets and self._buckets[0][0] <= minute - BUCKETS:
            self._buckets.popleft()
        if self._buckets and self._buckets[-1][0] == minute:
            sample = min(sample, self._buckets.pop()[1])
        self._buckets.append((minute, sample))


class Ledbat:
    """The window of one flow."""

    __slots__ = (
        "_base",
        "_began",
        "_delays",
        "_doubling",
        "_held",
        "_next",
        "_reduced",
        "_round_trips",
        "_shortest",
        "_threshold",
        "window",
    )

    def __init__(self) -> None:
        self.window = float(LEAST)  # bytes that may be on their way
        self._doubling = True  # in each round trip, until there is a queue or
        self._threshold = inf  # bytes are reached
        self._delays: deque[float] = deque(maxlen=FILTER)
        self._round_trips: deque[float] = deque(maxlen=FILTER)
        self._base = Least()  # of the delays
        self._shortest = Least()  # of the round trips
        self._reduced = -inf  # when we last heeded a loss
        self._began = -inf  # the last slow-down
        self._held = -inf  # until when it lasts
        self._next = inf  # when the next one is due

    @property
    def queue(self) -> float:
        """Seconds that a datagram seems to wait before the bottleneck."""
        if not self._delays:
            return 0.0
        rise = min(self._round_trips) - self._shortest.value
        return max(0.0, min(min(self._delays) - self._base.value, rise))

    def measure(self, delay: float, round_trip: float, now: float) -> None:
        """Take in a one-way delay, from any zero, and the round trip of the same datagram."""
        self._shortest.measure(round_trip, now)
        self._round_trips.append(round_trip)
        self._delays.append(delay)
        self._base.measure(delay, now)

    def acknowledged(self, size: int, smoothed: float, now: float, *, wanted: bool) -> None:
        """So many bytes arrived; `wanted`: the window was what held us back."""
        if now < self._held:
            return
        queue = self.queue
        if self._doubling:
            if wanted and queue <= ENOUGH:
                self.window = min(self.window + size, self._threshold)
            if queue > ENOUGH or self.window >= self._threshold:
                self._level(smoothed, now)
            return
        if now >= self._next and wanted:
            self._slow_down(smoothed, now)
            return
        off = (TARGET - queue) / TARGET
        if off < 0:
            self.window = max(self.window + max(off, -0.5) * size, float(LEAST))
        elif wanted:
            self.window += GAIN * off * size * MAX_DATAGRAM / self.window

    def lost(self, sent: float, smoothed: float, now: float) -> None:
        """A datagram sent at that time did not arrive; heeded once in a round trip."""
        if sent <= self._reduced:
            return
        self._reduced = now
        self.window = max(self.window / 2, float(LEAST))
        if self._doubling:
            self._level(smoothed, now)

    def collapse(self, now: float) -> None:
        """Nothing arrives: begin anew, up to half of what was."""
        if self.window > LEAST:
            self._threshold = max(self.window / 2, float(LEAST))
            self.window = float(LEAST)
        self._doubling = True
        self._began, self._held = now, -inf

    def rest(self, times: float) -> None:
        """Nothing was sent for so many timeouts: what the window was means less."""
        if times > 0:
            self.window = max(self.window * 0.5 ** min(times, 64), float(LEAST))

    def _level(self, smoothed: float, now: float) -> None:
        """The doubling is over."""
        first = self._began == -inf
        self._doubling = False
        self._next = now + (SLOW * smoothed if first else EVERY * (now - self._began))

    def _slow_down(self, smoothed: float, now: float) -> None:
        self._threshold = self.window
        self.window = float(LEAST)
        self._doubling = True
        self._began, self._held = now, now + SLOW * smoothed
        self._reduced = now  # what is lost of the old window says nothing about this one


class Pacer:
    """Spreads a window over the round trip, in bursts that any queue takes."""

    __slots__ = ("_at", "_credit")

    def __init__(self) -> None:
        self._credit = float(BURST)  # bytes
        self._at = -inf

    def ready(self, window: float, round_trip: float, now: float) -> float:
        """When the next datagram may leave; not after `now` if at once."""
        rate = PACE * window / max(round_trip, 1e-6)
        if now > self._at:
            self._credit = min(self._credit + rate * (now - self._at), float(BURST))
            self._at = now
        missing = MAX_DATAGRAM - self._credit
        return now + missing / rate if missing > 1 else now  # one byte, for rounding

    def spend(self, size: int) -> None:
        """One has left."""
        self._credit -= size
