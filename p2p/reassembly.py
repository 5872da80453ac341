"""Streams that arrive in datagrams, from one source.

What arrives is kept, and nothing is kept for what is only announced, so a source makes us hold no
more than it has sent. Whatever finds no room is not acknowledged, and the sender slows down; what
was acknowledged is held until its stream is complete, or nothing more of it has come for so long
that the sender must have given it up.

Streams are numbered in each flow, and a window over these numbers remembers which were complete,
so each is handed on once, however often its fragments come. A source that restarts begins a new
flow; the last one is kept beside it, for what was delayed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from p2p.frames import KEEP_BACK, SEEN, Fragment, Receipt, pieces, ticks
from p2p.seal import Window

EVERY = 8  # datagrams until a receipt is due
_MASK = (1 << SEEN) - 1


@dataclass(slots=True)
class _Unfinished:
    size: int
    last: float  # when something of it came
    held: int = 0  # bytes
    parts: dict[int, bytes] = field(default_factory=dict)


class Inflow:
    """One flow that somebody sends us.

    Args:
        most: unfinished streams at a time.
        forget: seconds until one of which nothing more comes is dropped for another.
    """

    def __init__(self, id: int, most: int, forget: float) -> None:
        self.id = id
        self.held = 0  # bytes of unfinished streams
        self.due = inf  # when the next receipt is
        self._most = most
        self._forget = forget
        self._unfinished: dict[int, _Unfinished] = {}
        self._complete = Window()
        self._newest = -1
        self._newest_at = 0.0
        self._offset = 0
        self._seen = 0
        self._count = 0  # datagrams since the last receipt

    @property
    def unfinished(self) -> int:
        """Streams that are not complete."""
        return len(self._unfinished)

    def receive(self, fragment: Fragment, room: int, now: float) -> bytes | None:
        """Take a fragment; the stream that it completes, if it does.

        Args:
            room: bytes that may still be held.
        """
        stream = None
        if self._complete.admits(fragment.transfer):
            unfinished = self._unfinished.get(fragment.transfer)
            if unfinished is None:
                self._drop_abandoned(now)
                if len(self._unfinished) >= self._most:
                    return None
                unfinished = _Unfinished(fragment.size, now)
            if unfinished.size != fragment.size:
                return None
            if fragment.place not in unfinished.parts:
                if len(fragment.data) > room:
                    return None
                unfinished.last = now
                stream = self._keep(unfinished, fragment)
        self._note(fragment, now)
        return stream

    def _drop_abandoned(self, now: float) -> None:
        for transfer, unfinished in list(self._unfinished.items()):
            if now >= unfinished.last + self._forget:
                del self._unfinished[transfer]
                self.held -= unfinished.held

    def _keep(self, unfinished: _Unfinished, fragment: Fragment) -> bytes | None:
        parts = unfinished.parts
        parts[fragment.place] = fragment.data
        unfinished.held += len(fragment.data)
        self.held += len(fragment.data)
        self._unfinished[fragment.transfer] = unfinished
        if len(parts) < pieces(unfinished.size):
            return None
        self._complete.mark(fragment.transfer)
        del self._unfinished[fragment.transfer]
        self.held -= unfinished.held
        return b"".join(parts[place] for place in range(len(parts)))

    def _note(self, fragment: Fragment, now: float) -> None:
        """Remember that this datagram is here, and when to say so."""
        ahead = fragment.number - self._newest
        if ahead > 0:
            self._seen = (self._seen << min(ahead, SEEN) | 1) & _MASK
            self._newest, self._newest_at = fragment.number, now
            self._offset = (ticks(now) - fragment.clock) % (1 << 32)
        elif -ahead < SEEN:
            self._seen |= 1 << -ahead
        self._count += 1
        # A gap is told at once, so that it is filled soon.
        at_once = fragment.prompt or ahead != 1 or self._count >= EVERY
        self.due = now if at_once else min(self.due, now + KEEP_BACK)

    def receipt(self, now: float) -> Receipt:
        """What to tell the sender."""
        self.due, self._count = inf, 0
        delay = min(int((now - self._newest_at) * 1e6), 0xFFFFFFFF)
        return Receipt(self.id, self._newest, delay, self._offset, self._seen)


class Source:
    """What one peer or address sends us: its latest flow, and the one before.

    Args:
        most_bytes: of all its unfinished streams.
        most_streams: that are unfinished at a time, in each flow.
        forget: seconds until one of which nothing more comes is dropped for another.
    """

    def __init__(self, most_bytes: int, most_streams: int, forget: float) -> None:
        self.last = -inf  # when something came
        self._most_bytes = most_bytes
        self._most_streams = most_streams
        self._forget = forget
        self._flows: dict[int, Inflow] = {}

    @property
    def held(self) -> int:
        """Bytes of unfinished streams."""
        return sum(flow.held for flow in self._flows.values())

    @property
    def unfinished(self) -> int:
        """Streams that are not complete."""
        return sum(flow.unfinished for flow in self._flows.values())

    @property
    def due(self) -> float:
        """When the next receipt is."""
        return min((flow.due for flow in self._flows.values()), default=inf)

    def receive(self, fragment: Fragment, room: int, now: float) -> bytes | None:
        """Take a fragment; the stream that it completes, if it does."""
        self.last = now
        flow = self._flows.get(fragment.flow)
        if flow is None:
            flow = Inflow(fragment.flow, self._most_streams, self._forget)
            self._flows[fragment.flow] = flow
            if len(self._flows) > 2:
                del self._flows[next(iter(self._flows))]
        return flow.receive(fragment, min(room, self._most_bytes - self.held), now)

    def receipt(self, now: float) -> Receipt | None:
        """One that is due, or None."""
        for flow in self._flows.values():
            if flow.due <= now:
                return flow.receipt(now)
        return None
