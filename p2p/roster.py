"""The roster: what every peer says about itself, so that any of them can draw the whole network.

Each peer publishes one signed record and renews it; the record with the highest sequence number is
the one that counts. Records spread by anti-entropy between neighbours:

    has news               --- Digest(place, ids and sequences) -->  which of them do I lack?
    sends those            <-- Wanted(place, ids) -----------------
                           --- Records --------------------------->  checks and keeps them, and has
    goes on from that place  <-- Wanted(place, none) --------------  news for its other neighbours

Everybody keeps records in the order in which it learned them, numbered by their *place*, and knows
for each link up to which place the other end has them. So a digest names only what is new to that
neighbour, who is in step costs nothing, and whatever gets lost is named again at the next turn.

*Age.* There is no common clock. A record travels with the seconds since it was published, to which
each holder adds his own, as link-state advertisements do (OSPF, RFC 2328, section 12.1.1). So all
forget a record that nobody renews at about the same time, and nobody gives it back to those who
have forgotten it. A neighbour that lies about the age can keep a dead peer's record alive, or
withhold it; it cannot change it.

*Traffic.* The more peers there are, the less often each one publishes, so that all together publish
about `rate` records a second (as RTCP's reports, RFC 3550, section 6.2). Measured in the simulator,
with five links, records of 211 bytes, and everybody always having something new to say: a node
sends 1.2 kB/s among 20 peers and 2.9 kB/s among 100.

*Room.* A full roster forgets whose record is the oldest, but never a neighbour's; and takes in no
record that is older than all of those. In a network of more peers than there is room for,
all come to hold the same ones, the most recently renewed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, inf
from random import Random
from typing import Literal

from p2p.buckets import Buckets
from p2p.errors import WireError
from p2p.events import RecordRejected
from p2p.link import Link
from p2p.liveness import Say
from p2p.messages import DIGESTED, SENT, Digest, Records, Wanted
from p2p.peer import Peer, PeerId
from p2p.record import (
    METRIC,
    METRICS,
    NAME,
    NEIGHBOURS,
    Record,
    Sign,
    Verify,
    fitting,
    genuine,
    prefix,
    seal,
    shared,
)
from p2p.timers import Timers

TENTHS = 10  # of a second, in which ages travel
OLDEST = 2**16 - 1  # of these; what is older has expired nearly everywhere
ROOM = 1000  # bytes of records in one message, with what msgpack puts around each
AROUND = 7
LAST = 2**63 - 1  # the highest sequence number


@dataclass(frozen=True, slots=True, kw_only=True)
class RosterConfig:
    """How often peers tell of themselves, and how much of it we keep."""

    every: float = 0.5
    """Seconds between two digests, each to the next neighbour that we have news for. With 1 s
    records are twice as old when a fifth of all datagrams is lost, for 5 % less traffic."""

    publish_every: float = 15.0
    """Seconds between two records of ours at least, while there is something new to say. A guess:
    nobody watches the whole network more closely, and beside a model of 6,000 parameters that is
    exchanged ten times a second, records every 5 s were an eighth of all traffic."""

    rate: float = 10.0
    """Records a second of all peers together; from 50 peers on, each waits longer for it. A
    guess."""

    renew_every: float = 60.0
    """Seconds after which a record is renewed although nothing is new. A guess."""

    expiry: float = 300.0
    """Seconds after which a record that was not renewed is forgotten: nearly three of the
    intervals at which 1,024 peers publish. A guess."""

    most: int = 1024
    """Records: half a megabyte at most."""

    check_rate: float = 50.0
    """Signatures a second that one neighbour can make us check, and records that it can make us
    send. A guess: five times what an honest one needs; checking takes 0.14 ms."""

    check_burst: float = 1024.0
    """How many of each at once: a whole roster."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A record that we hold."""

    record: Record
    data: bytes  # as it travels
    published: float  # when, by our own clock
    place: int  # among all that we have learned so far
    source: int  # our token of the link on which it came; 0: from ourselves


@dataclass(slots=True)
class _Sync:
    """How far the two ends of a link know each other's records."""

    link: Link
    known: int = 0  # the other end has what we learned up to this place
    digest: int = 0  # the place in its last digest
    wanted: dict[bytes, None] | None = None  # out of that digest, and still to come


class Roster:
    """The records of all peers, as far as we know. Messages go to `say`.

    Args:
        incarnation: where our sequence numbers begin; rises by more with every start than we
            publish between two of them.
        sign: None: we have no record of our own.
    """

    def __init__(
        self,
        me: Peer,
        config: RosterConfig,
        rng: Random,
        incarnation: int,
        say: Say,
        sign: Sign | None,
        verify: Verify,
    ) -> None:
        self._me = me
        self._config = config
        self._rng = rng
        self._say = say
        self._sign = sign
        self._verify = verify
        self._entries: dict[bytes, Entry] = {}  # by prefix, in the order of their places
        self._place = 0  # of the last one
        self._oldest = inf  # no entry was published before this
        self._syncs: dict[PeerId, _Sync] = {}  # whose turn is next comes first
        self._checks: Buckets[PeerId] = Buckets(config.check_rate, config.check_burst)
        self._sends: Buckets[PeerId] = Buckets(config.check_rate, config.check_burst)
        self._timers: Timers[Literal["turn", "publish", "expiry"]] = Timers()
        self._sequence = incarnation
        self._said: tuple[str, int, tuple[tuple[str, float], ...]] | None = None
        self._published = -inf
        self._news = False  # whether we have something to publish

    @property
    def entries(self) -> Mapping[bytes, Entry]:
        """All records, our own included, by the prefix of their peer's id; latest last."""
        return self._entries

    # our own record ------------------------------------------------------------------------------

    def publish(self, name: str, samples: int, metrics: Mapping[str, float], now: float) -> None:
        """Say this about ourselves, as soon as our last record is old enough; call it as often as
        you like. What does not fit is cut: see `p2p.record`."""
        said = (
            fitting(name, NAME),
            samples,
            tuple((fitting(key, METRIC), float(metrics[key])) for key in list(metrics)[:METRICS]),
        )
        if said != self._said:
            self._said = said
            self._have_news(now)

    def _have_news(self, now: float) -> None:
        if self._sign is None or self._said is None or self._news:
            return
        self._news = True
        pause = max(self._config.publish_every, len(self._entries) / self._config.rate)
        self._timers.set("publish", max(now, self._published + self._jitter(pause)))

    def _publish(self, now: float, *, left: bool = False) -> Entry:
        assert self._sign is not None
        assert self._said is not None
        self._sequence += 1
        neighbours = tuple(prefix(peer) for peer in list(self._syncs)[:NEIGHBOURS])
        record = Record(self._me, self._sequence, *self._said, neighbours, left)
        self._published, self._news = now, False
        pause = max(self._config.renew_every, len(self._entries) / self._config.rate)
        self._timers.set("publish", now + self._jitter(pause))
        return self._keep(record, seal(record, self._sign), now, 0, now)

    def leave(self, now: float) -> None:
        """Tell all neighbours that this was our last record."""
        self._timers = Timers()
        if self._published > -inf:
            data = self._publish(now, left=True).data
            for sync in self._syncs.values():
                self._say(sync.link.to, Records(sync.link.theirs, ((0, data),)))
        self._syncs.clear()
        self._timers = Timers()

    # links ---------------------------------------------------------------------------------------

    def on_up(self, link: Link, now: float) -> None:
        """A neighbour more."""
        assert link.peer is not None
        sync = self._syncs[link.peer.id] = _Sync(link)
        self._have_news(now)
        if self._offer(sync):
            self._start_turns(now)

    def on_down(self, peer: PeerId, now: float) -> None:
        """A neighbour less."""
        if self._syncs.pop(peer, None):
            self._have_news(now)

    def on_digest(self, link: Link, message: Digest) -> None:
        """A neighbour has news."""
        sync = self._sync_of(link)
        if sync is None:
            return
        lacking = [whose for whose, sequence in message.records if self._lacks(whose, sequence)]
        sync.digest, sync.wanted = message.place, dict.fromkeys(lacking)
        self._say(link.to, Wanted(link.theirs, message.place, tuple(sync.wanted)))

    def on_wanted(self, link: Link, message: Wanted, now: float) -> None:
        """A neighbour lacks some of our news, or has them all by now."""
        sync = self._sync_of(link)
        if sync is None:
            return
        if message.records:
            self._send(link, message.records, now)
        elif message.place > sync.known:
            sync.known = message.place
            self._offer(sync)

    def on_records(self, link: Link, message: Records, now: float) -> list[RecordRejected]:
        """A neighbour has sent records."""
        sync = self._sync_of(link)
        if sync is None or link.peer is None:
            return []
        for tenths, data in message.records:
            try:
                record, data = shared(data)
                if not self._take_in(record, data, now - tenths / TENTHS, link, now):
                    return []  # it will be named again
            except WireError as error:
                return [RecordRejected(link.peer, str(error))]
            if sync.wanted:
                sync.wanted.pop(prefix(record.peer.id), None)
        if sync.wanted is not None and not sync.wanted:
            sync.wanted = None
            self._say(link.to, Wanted(link.theirs, sync.digest, ()))
        return []

    def _sync_of(self, link: Link) -> _Sync | None:
        return self._syncs.get(link.peer.id) if link.peer else None

    def _lacks(self, whose: bytes, sequence: int) -> bool:
        held = self._entries.get(whose)
        return held is None or held.record.sequence < sequence

    def _offer(self, sync: _Sync) -> bool:
        """Name what is new to a neighbour, the first of it; False if nothing is."""
        news: list[Entry] = []
        for entry in reversed(self._entries.values()):
            if entry.place <= sync.known:
                break
            if entry.source != sync.link.mine:
                news.append(entry)
        if not news:
            sync.known = self._place
            return False
        named = news[-1 : -1 - DIGESTED : -1]
        records = tuple((prefix(one.record.peer.id), one.record.sequence) for one in named)
        self._say(sync.link.to, Digest(sync.link.theirs, named[-1].place, records))
        return True

    def _send(self, link: Link, wanted: tuple[bytes, ...], now: float) -> None:
        assert link.peer is not None
        batch: list[tuple[int, bytes]] = []
        size = 0
        for whose in wanted:
            entry = self._entries.get(whose)
            if entry is None or not self._sends.take(link.peer.id, now):
                continue
            needs = len(entry.data) + AROUND
            if batch and (size + needs > ROOM or len(batch) == SENT):
                self._say(link.to, Records(link.theirs, tuple(batch)))
                batch, size = [], 0
            age = min(ceil((now - entry.published) * TENTHS), OLDEST)
            batch.append((age, entry.data))
            size += needs
        if batch:
            self._say(link.to, Records(link.theirs, tuple(batch)))

    # records -------------------------------------------------------------------------------------

    def _take_in(
        self, record: Record, data: bytes, published: float, link: Link, now: float
    ) -> bool:
        """Keep a record if it is news; False if it was not even looked at. Raises WireError."""
        assert link.peer is not None
        if not self._is_news(record, published, now):
            return True
        if not self._checks.take(link.peer.id, now):
            return False
        if not genuine(record, data, self._verify):
            raise WireError(f"{record.peer.id.short} has not signed this record")
        if record.peer.id == self._me.id:
            # By an earlier process of ours, before the clock was set back.
            self._sequence = min(record.sequence, LAST - 1)
            self._have_news(now)
        else:
            self._keep(record, data, published, link.mine, now)
        return True

    def _is_news(self, record: Record, published: float, now: float) -> bool:
        if record.peer.id == self._me.id:
            return record.sequence > self._sequence
        if published + self._config.expiry <= now:
            return False
        held = self._entries.get(prefix(record.peer.id))
        if held is not None:
            same = held.record.peer.id == record.peer.id
            return same and held.record.sequence < record.sequence
        return len(self._entries) < self._config.most or self._victim(published) is not None

    def _keep(
        self, record: Record, data: bytes, published: float, source: int, now: float
    ) -> Entry:
        whose = prefix(record.peer.id)
        if self._entries.pop(whose, None) is None and len(self._entries) >= self._config.most:
            victim = self._victim(inf)
            if victim is not None:
                del self._entries[victim]
        self._place += 1
        entry = self._entries[whose] = Entry(record, data, published, self._place, source)
        if published < self._oldest:
            self._oldest = published
            self._timers.set("expiry", published + self._config.expiry)
        self._start_turns(now)
        return entry

    def _victim(self, before: float) -> bytes | None:
        """The oldest record, if it was published before that and is nobody's we need."""
        oldest = None
        for whose, entry in self._entries.items():
            peer = entry.record.peer.id
            if entry.published < before and peer not in self._syncs and peer != self._me.id:
                oldest, before = whose, entry.published
        return oldest

    def _forget_expired(self, now: float) -> None:
        for whose, entry in list(self._entries.items()):
            # the very sum for which the timer was set: a difference may round another way
            if entry.published + self._config.expiry <= now:
                del self._entries[whose]
        self._oldest = min((entry.published for entry in self._entries.values()), default=inf)
        if self._oldest < inf:
            self._timers.set("expiry", self._oldest + self._config.expiry)

    # timers --------------------------------------------------------------------------------------

    def next_timeout(self) -> float:
        """When `handle_timeout` wants to be called."""
        return self._timers.next()

    def handle_timeout(self, now: float) -> None:
        """Publish, offer news to whose turn it is, forget what is old."""
        for timer in self._timers.pop_expired(now):
            match timer:
                case "publish":
                    self._publish(now)
                case "expiry":
                    self._forget_expired(now)
                case "turn":
                    self._take_turn(now)

    def _take_turn(self, now: float) -> None:
        for peer, sync in list(self._syncs.items()):
            if self._offer(sync):
                self._syncs[peer] = self._syncs.pop(peer)
                self._start_turns(now)
                return

    def _start_turns(self, now: float) -> None:
        if self._syncs and "turn" not in self._timers:
            self._timers.set("turn", now + self._jitter(self._config.every))

    def _jitter(self, delay: float) -> float:
        return delay * self._rng.uniform(0.75, 1.25)
