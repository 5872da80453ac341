"""Carries streams in datagrams: all of each, once, or a word that it could not.

For networks in which TCP cannot reach a peer and UDP can, and for streams so short that a
connection is not worth its round trips. `p2p.flow` sends, `p2p.reassembly` receives, `p2p.frames`
says what the datagrams look like. Nothing here needs to trust a source: each has room of its own,
there are only so many, and what it sends is decoded completely before anything changes. A peer is
known by its id where the datagrams are sealed, whatever address it has at the moment, and by its
address where they are not.

The verbs are those of a machine (`p2p.machine`), except that `poll_transmit` is told the time: a
datagram carries the time at which it left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from p2p.flow import Flow
from p2p.frames import Fragment, decode
from p2p.packet import MAX_STREAM
from p2p.peer import Address, PeerId
from p2p.reassembly import Source
from p2p.sessions import Destination
from p2p.timers import Timers

Key = PeerId | Address


@dataclass(frozen=True, slots=True, kw_only=True)
class CourierConfig:
    """What streams in datagrams may cost."""

    most_destinations: int = 256
    """Destinations that streams wait for. As many as by TCP."""

    most_waiting: int = 8
    """Streams that wait for one destination. As many as by TCP."""

    waiting_bytes: int = 2 * MAX_STREAM
    """Bytes that wait for all destinations together. As many as by TCP."""

    most_sources: int = 1024
    """Peers, or addresses, that streams come from. As many as have sessions with us."""

    most_unfinished: int = 16
    """Streams of one source that are not complete at a time; twice what a sender begins."""

    unfinished_bytes: int = 2 * MAX_STREAM
    """Bytes of incomplete streams from all sources together; half of them from one. As many as by
    TCP."""

    forget: float = 60.0
    """Seconds without a datagram until a source, or a stream of one that stays, is forgotten, and
    a flow is ended. Twice the time for which a sender goes on trying."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """A stream is complete."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Delivered:
    """The other end has all of a stream."""

    to: Destination


@dataclass(frozen=True, slots=True)
class GivenUp:
    """The other end does not answer."""

    to: Destination
    data: bytes


Event = Arrived | Delivered | GivenUp


@dataclass(slots=True)
class _Lane:
    to: Destination
    flow: Flow
    armed: float = inf  # what its timer is set to


class Courier:
    """All streams in datagrams of one node; no I/O.

    Args:
        max_stream: bytes; a longer stream is not taken.
        entropy: that many random bytes that nobody can foresee.
    """

    def __init__(
        self, config: CourierConfig, max_stream: int, entropy: Callable[[int], bytes]
    ) -> None:
        self._config = config
        self._max_stream = max_stream
        self._entropy = entropy
        self._lanes: dict[Key, _Lane] = {}
        self._by_id: dict[int, Key] = {}
        self._sources: dict[Key, tuple[Source, Destination]] = {}  # the longest silent first
        self._held = 0  # bytes of incomplete streams
        self._ready: dict[Key, None] = {}  # lanes that may have something to send, in turn
        self._owing: dict[Key, None] = {}  # sources to whom a receipt is due
        self._lane_timers: Timers[Key] = Timers()
        self._receipt_timers: Timers[Key] = Timers()

    @property
    def waiting(self) -> int:
        """Streams that are not known to have arrived."""
        return sum(len(lane.flow.transfers) for lane in self._lanes.values())

    @property
    def waiting_bytes(self) -> int:
        """Bytes of these."""
        return sum(lane.flow.bytes_waiting for lane in self._lanes.values())

    @property
    def unfinished(self) -> int:
        """Streams that have arrived in part."""
        return sum(source.unfinished for source, _ in self._sources.values())

    @property
    def unfinished_bytes(self) -> int:
        """Bytes of these parts."""
        return self._held

    @property
    def queues(self) -> dict[str, int]:
        """How long everything is that has a limit, out and in."""
        return {
            "in_datagrams": self.waiting,
            "in_datagrams_bytes": self.waiting_bytes,
            "unfinished": self.unfinished,
            "unfinished_bytes": self.unfinished_bytes,
            "sources": len(self._sources),
        }

    # verbs ----------------------------------------------------------------------------------------

    def send(self, to: Destination, data: bytes, patience: float, now: float) -> bool:
        """Carry a stream; False if there is no room for it, or the very same waits already.

        Args:
            patience: seconds without any answer until it is given up.
        """
        lane = self._lanes.get(_key(to))
        if not self._fits(lane, data):
            return False
        if lane is None:
            id = int.from_bytes(self._entropy(8), "big")
            lane = self._lanes[_key(to)] = _Lane(to, Flow(id, now))
            self._by_id[id] = _key(to)
        lane.to = to
        lane.flow.put(data, patience, now)
        self._touch(_key(to), lane)
        return True

    def _fits(self, lane: _Lane | None, data: bytes) -> bool:
        if self.waiting_bytes + len(data) > self._config.waiting_bytes:
            return False
        if lane is None or not lane.flow.transfers:
            busy = sum(bool(lane.flow.transfers) for lane in self._lanes.values())
            return busy < self._config.most_destinations
        waiting = lane.flow.transfers.values()
        return (
            lane.flow.room
            and len(waiting) < self._config.most_waiting
            and all(data != transfer.data for transfer in waiting)
        )

    def receive(self, source: Destination, datagram: bytes, now: float) -> list[Event]:
        """Take a frame; what it brought about. Never raises, whatever the bytes."""
        frame = decode(datagram)
        if frame is None:
            return []
        if isinstance(frame, Fragment):
            return self._on_fragment(source, frame, now)
        key = self._by_id.get(frame.flow)
        # The id is a secret between the two ends; where there is proof of who sent it, that counts.
        if key is None or (isinstance(key, PeerId) and source.peer != key):
            return []
        lane = self._lanes[key]
        complete = lane.flow.acknowledge(frame, now)
        self._touch(key, lane)
        return [Delivered(lane.to) for _ in complete]

    def _on_fragment(self, origin: Destination, fragment: Fragment, now: float) -> list[Event]:
        if fragment.size > self._max_stream:
            return []
        key = _key(origin)
        source, _ = self._sources.pop(key, (None, None))
        if source is None:
            if len(self._sources) >= self._config.most_sources:
                return []
            config = self._config
            source = Source(config.unfinished_bytes // 2, config.most_unfinished, config.forget)
        self._sources[key] = (source, origin)
        held = source.held
        stream = source.receive(fragment, self._config.unfinished_bytes - self._held, now)
        self._held += source.held - held
        if source.due <= now:
            self._owing[key] = None
        elif source.due < inf and key not in self._receipt_timers:
            self._receipt_timers.set(key, source.due)
        return [] if stream is None else [Arrived(stream)]

    def handle_timeout(self, now: float) -> list[Event]:
        """Do what is due. Calling early does nothing."""
        self._forget_silent(now)
        for key in self._receipt_timers.pop_expired(now):
            if key in self._sources:
                self._owing[key] = None
        events: list[Event] = []
        for key in self._lane_timers.pop_expired(now):
            lane = self._lanes[key]
            lane.armed = inf
            events += [GivenUp(lane.to, gone.data) for gone in lane.flow.handle_timeout(now)]
            if lane.flow.transfers or now < lane.flow.active + self._config.forget:
                self._touch(key, lane)
            else:
                del self._lanes[key], self._by_id[lane.flow.id]
                self._ready.pop(key, None)
        return events

    def _forget_silent(self, now: float) -> None:
        while self._sources:
            key, (source, _) = next(iter(self._sources.items()))
            if now < source.last + self._config.forget:
                return
            self._held -= source.held
            del self._sources[key]
            self._owing.pop(key, None)

    def poll_transmit(self, now: float) -> tuple[Destination, bytes] | None:
        """The next datagram and where to, or None until something arrives or `next_timeout`."""
        while self._owing:
            key = next(iter(self._owing))
            source, origin = self._sources[key]
            receipt = source.receipt(now)
            if receipt is not None:
                return origin, receipt.encode()
            del self._owing[key]
            if source.due < inf:
                self._receipt_timers.set(key, source.due)
        while self._ready:
            key = next(iter(self._ready))
            del self._ready[key]
            lane = self._lanes[key]
            datagram = lane.flow.poll(now)
            if datagram is not None:
                self._ready[key] = None  # behind the others
                return lane.to, datagram
            self._arm(key, lane)
        return None

    def next_timeout(self) -> float:
        """When `handle_timeout` wants to be called: absolute seconds, `inf` for never."""
        forget = inf
        if self._sources:
            source, _ = next(iter(self._sources.values()))
            forget = source.last + self._config.forget
        return min(self._lane_timers.next(), self._receipt_timers.next(), forget)

    # timers ---------------------------------------------------------------------------------------

    def _touch(self, key: Key, lane: _Lane) -> None:
        """Something has changed: ask it for datagrams, and then when to ask again."""
        self._ready[key] = None
        self._arm(key, lane)

    def _arm(self, key: Key, lane: _Lane) -> None:
        due = lane.flow.next_timeout()
        if due == inf:
            due = lane.flow.active + self._config.forget
        if due != lane.armed:  # whatever a peer sends us, there are not more timers than changes
            lane.armed = due
            self._lane_timers.set(key, due)


def _key(to: Destination) -> Key:
    return to.peer or to.address
