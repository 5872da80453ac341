"""Streams on their way to one destination, in datagrams.

Every datagram has a number, and a fragment that is sent again gets a new one. Of those on their
way, three rules say which are lost (RFC 9002, section 6):

* three that were sent later have arrived (packet threshold); more than three where datagrams that
  were thought lost have turned out to be late;
* one that was sent later has arrived, and 9/8 of a round trip has passed (time threshold);
* nothing has arrived for the length of a probe timeout: then up to two fragments are sent again,
  whatever the window says, and what comes back for them decides about the rest.

What is lost is sent again, before anything new. How much may be on its way is up to `p2p.ledbat`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from p2p.frames import FRAGMENT, KEEP_BACK, SEEN, Fragment, Receipt, change, pieces, ticks
from p2p.ledbat import Ledbat, Pacer
from p2p.packet import MAX_DATAGRAM
from p2p.rtt import RoundTrip
from p2p.seal import WINDOW

PACKETS = 3  # that were sent later and have arrived: RFC 9002, 6.1.1
MOST_PACKETS = SEEN // 2  # the same, where they overtake one another
REORDERING = 9 / 8  # of a round trip: RFC 9002, 6.1.2
GRANULE = 0.001  # seconds; the least that a timer waits
FIRST_GUESS = 0.1  # seconds of a round trip before the first is measured. RFC 9002 has 0.333 for
# handshakes with strangers; we have heard from this peer, and a probe too early costs a datagram.
PROBES = 2  # datagrams for each probe timeout: RFC 9002, 6.2.4
MOST_DOUBLINGS = 4  # of the probe timeout; so that a dozen probes fit into the usual patience


@dataclass(slots=True)
class Transfer:
    """A stream that is not there yet."""

    number: int
    data: bytes
    patience: float  # seconds without any progress until we give up
    began: float
    next: int = 0  # the first fragment that was never sent
    lost: dict[int, None] = field(default_factory=dict)  # fragments to be sent again, in order
    missing: int = 0  # fragments that are not known to have arrived
    arrived: bytearray = field(default_factory=bytearray)  # 1 for each fragment that is

    def __post_init__(self) -> None:
        self.missing = pieces(len(self.data))
        self.arrived = bytearray(self.missing)


class _Sent(NamedTuple):
    transfer: int
    place: int
    at: float
    size: int


class Flow:
    """One direction to one destination.

    Args:
        id: random, 8 bytes; by it receipts find us.
    """

    def __init__(self, id: int, now: float) -> None:
        self.id = id
        self.transfers: dict[int, Transfer] = {}  # oldest first
        self.bytes_waiting = 0  # of these
        self.congestion = Ledbat()
        self.round_trip = RoundTrip()
        self.active = now  # when a transfer was added or one ended
        self._pacer = Pacer()
        self._started = 0  # transfers
        self._number = 0  # of the next datagram
        self._sent: dict[int, _Sent] = {}  # on their way, oldest first
        self._in_flight = 0  # bytes of these
        self._mourned: dict[int, _Sent] = {}  # thought lost, not long ago
        self._packets = PACKETS
        self._newest = -1  # the highest number that has arrived
        self._latest = FIRST_GUESS  # round trip
        self._progress = now  # when something last arrived that had not before
        self._last = now  # when we last sent anything
        self._timeouts = 0  # in a row
        self._zero: int | None = None  # the first offset; the others are compared with it
        self._probes: list[tuple[int, int]] = []  # fragments to send whatever the window says
        self._loss_due = inf
        self._pace_due = inf

    # what to send ---------------------------------------------------------------------------------

    @property
    def room(self) -> bool:
        """Whether the receiver could still tell one more transfer from those that are done."""
        return not self.transfers or self._started - next(iter(self.transfers)) < WINDOW // 2

    def put(self, data: bytes, patience: float, now: float) -> None:
        """Let a stream wait for its turn."""
        if not self.transfers:
            self._clear()
            self._progress = now
            self.congestion.rest((now - self._last) / self._timeout() - 1)
        self.transfers[self._started] = Transfer(self._started, data, patience, now)
        self.bytes_waiting += len(data)
        self._started += 1
        self.active = now

    def poll(self, now: float) -> bytes | None:
        """The next datagram; None until something arrives or `next_timeout`."""
        self._pace_due = inf
        while self._probes:
            number, place = self._probes.pop(0)
            transfer = self.transfers.get(number)
            if transfer is not None and not transfer.arrived[place]:
                return self._emit(transfer, place, now)
        transfer = self._next_transfer()
        if transfer is None or self._in_flight + MAX_DATAGRAM > self.congestion.window:
            return None
        ready = self._pacer.ready(self.congestion.window, self._typical(), now)
        if ready > now:
            self._pace_due = ready
            return None
        if transfer.lost:
            place = next(iter(transfer.lost))
            del transfer.lost[place]
        else:
            place = transfer.next
            transfer.next += 1
        return self._emit(transfer, place, now)

    def _next_transfer(self) -> Transfer | None:
        for transfer in self.transfers.values():
            if transfer.lost or transfer.next < len(transfer.arrived):
                return transfer
        return None

    def _emit(self, transfer: Transfer, place: int, now: float) -> bytes:
        data = transfer.data[place * FRAGMENT : (place + 1) * FRAGMENT]
        size = MAX_DATAGRAM - FRAGMENT + len(data)
        self._sent[self._number] = _Sent(transfer.number, place, now, size)
        self._in_flight += size
        # Whoever must wait for a receipt now asks for it.
        prompt = (
            self._next_transfer() is None or self._in_flight + MAX_DATAGRAM > self.congestion.window
        )
        fragment = Fragment(
            self.id,
            self._number,
            transfer.number,
            len(transfer.data),
            place,
            ticks(now),
            prompt,
            data,
        )
        self._number += 1
        self._last = now
        self._pacer.spend(size)
        return fragment.encode()

    # what arrived ---------------------------------------------------------------------------------

    def acknowledge(self, receipt: Receipt, now: float) -> list[Transfer]:
        """Take a receipt; which transfers are complete. One that cannot be ours does nothing."""
        if receipt.newest >= self._number:
            return []
        arrived, late = _named(receipt, self._sent), _named(receipt, self._mourned)
        if not arrived and not late:
            return []
        self._progress = now
        complete = []
        for number in late:
            complete += self._tick_off(self._mourned.pop(number))
            overtaken = max(self._packets, receipt.newest - number + 1)
            self._packets = min(overtaken, MOST_PACKETS)
        if arrived:
            complete += self._arrive(arrived, receipt, now)
        if complete:
            self.active = now
        return complete

    def _arrive(self, arrived: list[int], receipt: Receipt, now: float) -> list[Transfer]:
        complete = []
        if arrived[-1] == receipt.newest:
            self._measure(receipt, now - self._sent[receipt.newest].at, now)
        wanted = self._wanted()
        size = 0
        for number in arrived:
            sent = self._sent.pop(number)
            size += sent.size
            complete += self._tick_off(sent)
        self._in_flight -= size
        self._newest = max(self._newest, receipt.newest)
        self._timeouts = 0
        self._probes.clear()
        self._find_lost(now)
        self.congestion.acknowledged(size, self._typical(), now, wanted=wanted)
        return complete

    def _wanted(self) -> bool:
        """Whether a wider window would have been used."""
        return self._next_transfer() is not None or 2 * self._in_flight > self.congestion.window

    def _measure(self, receipt: Receipt, elapsed: float, now: float) -> None:
        # A receiver that overstates its delay must not make the round trip vanish.
        delay = min(receipt.delay / 1e6, elapsed)
        self._latest = max(elapsed - delay, 1e-6)
        self.round_trip.measure(self._latest)
        if self._zero is None:
            self._zero = receipt.offset
        self.congestion.measure(change(receipt.offset, self._zero), self._latest, now)

    def _tick_off(self, sent: _Sent) -> list[Transfer]:
        transfer = self.transfers.get(sent.transfer)
        if transfer is None or transfer.arrived[sent.place]:
            return []
        transfer.arrived[sent.place] = 1
        transfer.lost.pop(sent.place, None)
        transfer.missing -= 1
        if transfer.missing:
            return []
        self._drop(transfer)
        return [transfer]

    def _drop(self, transfer: Transfer) -> None:
        del self.transfers[transfer.number]
        self.bytes_waiting -= len(transfer.data)

    def _find_lost(self, now: float) -> None:
        self._loss_due = inf
        patience = max(REORDERING * max(self._typical(), self._latest), GRANULE)
        lost = []
        for number, sent in self._sent.items():
            if number > self._newest:
                break
            if self._newest - number >= self._packets or sent.at + patience <= now:
                lost.append(number)
            else:
                self._loss_due = min(self._loss_due, sent.at + patience)
        for number in lost:
            self._mourned[number] = sent = self._sent.pop(number)
            self._in_flight -= sent.size
            self.congestion.lost(sent.at, self._typical(), now)
            transfer = self.transfers.get(sent.transfer)
            if transfer is not None and not transfer.arrived[sent.place]:
                transfer.lost[sent.place] = None
        while len(self._mourned) > SEEN:
            del self._mourned[next(iter(self._mourned))]

    # time -----------------------------------------------------------------------------------------

    def next_timeout(self) -> float:
        """When `handle_timeout` wants to be called, or `poll` has something to say."""
        if not self.transfers:
            return inf
        return min(self._loss_due, self._pace_due, self._probe_due(), self._stall_due())

    def handle_timeout(self, now: float) -> list[Transfer]:
        """Do what is due; which transfers are given up."""
        given_up = [
            transfer
            for transfer in self.transfers.values()
            if now >= max(self._progress, transfer.began) + transfer.patience
        ]
        for transfer in given_up:
            self._drop(transfer)
            self.active = now
        if not self.transfers:
            self._clear()
        elif now >= self._loss_due:
            self._find_lost(now)
        elif now >= self._probe_due():
            self._probe(now)
        return given_up

    def _probe(self, now: float) -> None:
        self._timeouts += 1
        if self._timeouts > 1:
            self.congestion.collapse(now)
        wanted: dict[tuple[int, int], None] = {}
        for sent in self._sent.values():
            transfer = self.transfers.get(sent.transfer)
            if transfer is not None and not transfer.arrived[sent.place]:
                wanted[sent.transfer, sent.place] = None
            if len(wanted) == PROBES:
                break
        if not wanted:
            self._clear()  # all that is on its way has arrived another time
        self._probes = list(wanted)
        self._last = now

    def _clear(self) -> None:
        """Forget what is on its way."""
        self._sent.clear()
        self._mourned.clear()
        self._probes.clear()
        self._in_flight = 0
        self._loss_due = self._pace_due = inf

    def _probe_due(self) -> float:
        if not self._sent:
            return inf
        return self._last + self._timeout() * 2.0 ** min(self._timeouts, MOST_DOUBLINGS)

    def _stall_due(self) -> float:
        return min(
            max(self._progress, transfer.began) + transfer.patience
            for transfer in self.transfers.values()
        )

    def _timeout(self) -> float:
        variation = self.round_trip.variation or FIRST_GUESS / 2
        return self._typical() + max(4 * variation, GRANULE) + KEEP_BACK

    def _typical(self) -> float:
        return self.round_trip.smoothed or FIRST_GUESS


def _named(receipt: Receipt, sent: dict[int, _Sent]) -> list[int]:
    """Those of the datagrams of which the receipt says that they arrived."""
    named = []
    for number in sent:
        behind = receipt.newest - number
        if behind < 0:
            break
        if behind < SEEN and receipt.seen >> behind & 1:
            named.append(number)
    return named
