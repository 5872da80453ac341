"""Which sessions we share with whom, which of them to send on, and when to make another.

A session is made by whoever wants to send: it dials the other end (TLS over TCP), both give their
half, both keep the session. The end that asked may send on it at once. The end that was asked
waits for the first datagram on it, which proves that its answer has arrived. If both ask at the
same moment there are two sessions, and both work: everybody receives on every session it keeps and
sends on the newest one on which it may.

Another one is made, while the old one goes on working, when

* it is old, or has carried much: keys that are thrown away cannot be stolen later. The end that
  asked for it does that; the other only if it has waited in vain for a quarter of the time.
* nothing has come back for a while although we kept sending. Perhaps the other end has restarted
  and knows the session no more. It cannot tell us by UDP: an answer to a datagram that does not
  open would be an answer to anybody.

A peer may move to another address. We follow a datagram that opens if it is the newest there is; an
older one, held back and sent again from elsewhere, moves nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from p2p.peer import Address, PeerId
from p2p.seal import SECRET_SIZE, Half, Session, index_of

MOST_DOUBLINGS = 16  # of the time that we wait for a peer; by then it is at its longest


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionConfig:
    """How long sessions live, and how many there may be."""

    renew_after: float = 120.0
    """Seconds of use until another session is made (WireGuard's REKEY_AFTER_TIME)."""

    renew_after_count: int = 1 << 34
    """Datagrams until another session is made (Nebula's limit). ChaCha20-Poly1305 itself allows
    far more than 2**60 before they are told from random, and 2**36 forgeries (RFC 9001, 6.6)."""

    live: float = 360.0
    """Seconds until a session is forgotten; three times `renew_after`, so that peers whose TCP
    is out of order for some minutes go on talking. A guess; WireGuard, which renews by UDP, has
    180."""

    margin: float = 30.0
    """Seconds before that, after which no more is sent on it; above any delay on the way."""

    silence: float = 2.0
    """Seconds for which we may send and hear nothing until we suspect that the other end has
    forgotten the session; doubles with each attempt. Neighbours probe each other every second, so
    that is two probes lost in a row: 1 % of the time at 10 % loss, for the price of one request."""

    silence_most: float = 60.0
    """Seconds; where that doubling ends. A guess."""

    most_peers: int = 1024
    """Peers that sessions are kept for; the one whose last session is the oldest goes first. As
    many as the roster holds."""

    most_per_peer: int = 8
    """Sessions with one peer, the oldest goes first: three in the course of `live`, twice that if
    both ends always ask at the same moment, and some spare."""


class Destination(NamedTuple):
    """Where to, and for whom; None for any member who answers there."""

    address: Address
    peer: PeerId | None


class Sealed(NamedTuple):
    """A datagram that may leave."""

    data: bytes
    to: Address
    dial: Destination | None  # where to ask for another session, if it is time


@dataclass(slots=True)
class _Kept:
    """A session and what we know about it."""

    session: Session
    number: int  # rises with every session
    made: float  # seconds
    confirmed: bool  # the other end has it too


@dataclass(slots=True)
class _Known:
    """What we share with one peer."""

    sessions: list[_Kept] = field(default_factory=list)  # oldest first
    heard_on: int = -1  # the highest number of a session on which we have heard from it
    address: Address | None = None  # where it was when we last had proof
    unheard: float | None = None  # when we sent the first datagram since we have heard from it
    attempts: int = 0  # sessions made since then


class Sessions:
    """All sessions of one node; no I/O.

    Args:
        entropy: that many random bytes that nobody can foresee.
    """

    def __init__(self, me: PeerId, config: SessionConfig, entropy: Callable[[int], bytes]) -> None:
        self._me = me
        self._config = config
        self._entropy = entropy
        self._known: dict[PeerId, _Known] = {}  # the one with the oldest last session first
        self._index: dict[int, _Kept] = {}
        self._at: dict[Address, PeerId] = {}  # who answers there, for those who do not say
        self._numbers = 0

    def __len__(self) -> int:
        return len(self._index)

    # making a session ----------------------------------------------------------------------------

    def ask(self) -> Half:
        """Our half of a session that we ask for; then `answered`."""
        while (index := int.from_bytes(self._entropy(4), "big")) in self._index:
            pass
        return Half(index, self._entropy(SECRET_SIZE))

    def answered(self, ours: Half, peer: PeerId, theirs: Half, at: Address, now: float) -> None:
        """Keep the session that we asked for; the peer answered at that address."""
        if ours.index in self._index:
            return  # another one took the index meanwhile: one in four billion
        known = self._keep(Session(self._me, ours, peer, theirs, initiated=True), now)
        known.address = at
        known.attempts = min(known.attempts + (known.unheard is not None), MOST_DOUBLINGS)
        known.unheard = None
        self._at.pop(at, None)
        self._at[at] = peer
        self._shorten()

    def answer(self, peer: PeerId, theirs: Half, now: float) -> Half:
        """Our half of the session that a peer asks for; we keep it."""
        ours = self.ask()
        self._keep(Session(self._me, ours, peer, theirs, initiated=False), now)
        return ours

    def forget(self, peer: PeerId) -> None:
        """All sessions with this peer are over; what it sends on them is a stranger's."""
        if peer in self._known:
            self._forget(peer)

    def _keep(self, session: Session, now: float) -> _Known:
        self._forget_expired(now)
        known = self._known.pop(session.peer, None) or _Known()
        self._known[session.peer] = known
        kept = _Kept(session, self._numbers, now, confirmed=session.initiated)
        self._numbers += 1
        known.sessions.append(kept)
        self._index[session.index] = kept
        while len(known.sessions) > self._config.most_per_peer:
            del self._index[known.sessions.pop(0).session.index]
        if len(self._known) > self._config.most_peers:
            self._forget(next(iter(self._known)))
        return known

    def _forget_expired(self, now: float) -> None:
        while self._known:
            peer, known = next(iter(self._known.items()))
            if known.sessions and now < known.sessions[-1].made + self._config.live:
                return
            self._forget(peer)

    def _forget(self, peer: PeerId) -> None:
        for kept in self._known.pop(peer).sessions:
            del self._index[kept.session.index]

    # datagrams -----------------------------------------------------------------------------------

    def peer_at(self, destination: Destination) -> PeerId | None:
        """Whom a datagram to this destination is sealed for; None if we do not know yet."""
        return destination.peer or self._at.get(destination.address)

    def seal(self, destination: Destination, data: bytes, now: float) -> Sealed | None:
        """The datagram to send; None if there is no session to send it on."""
        peer = self.peer_at(destination)
        known = None if peer is None else self._known.get(peer)
        kept = None if known is None else self._usable(known, now)
        if peer is None or known is None or kept is None:
            return None
        dial = None
        if known.unheard is None:
            known.unheard = now
        elif now - known.unheard >= self._patience(known):
            dial = destination  # whoever is there now
        to = known.address or destination.address
        if dial is None and self._is_old(kept, now):
            dial = Destination(to, peer)
        return Sealed(kept.session.seal(data), to, dial)

    def open(self, datagram: bytes, source: Address, now: float) -> tuple[PeerId, bytes] | None:
        """Who has sent it, and what; None for whatever is not of a session of ours, or repeated."""
        index = index_of(datagram)
        kept = None if index is None else self._index.get(index)
        if kept is None or now >= kept.made + self._config.live:
            return None
        opened = kept.session.open(datagram)
        if opened is None:
            return None
        peer = kept.session.peer
        known = self._known[peer]
        kept.confirmed = True
        known.unheard = None
        known.attempts = 0
        if opened.newest and kept.number >= known.heard_on:
            known.heard_on = kept.number
            if known.address != source:
                known.address = source
                # What we found out ourselves by dialling is worth more than what a source says.
                self._at.setdefault(source, peer)
                self._shorten()
        return peer, opened.data

    def _usable(self, known: _Known, now: float) -> _Kept | None:
        until = self._config.live - self._config.margin
        for kept in reversed(known.sessions):
            if kept.confirmed:
                return kept if now < kept.made + until else None
        return None

    def _patience(self, known: _Known) -> float:
        return min(self._config.silence * 2.0**known.attempts, self._config.silence_most)

    def _is_old(self, kept: _Kept, now: float) -> bool:
        patience = 1.0 if kept.session.initiated else 1.25
        return (
            now >= kept.made + patience * self._config.renew_after
            or kept.session.sent >= self._config.renew_after_count
        )

    def _shorten(self) -> None:
        while len(self._at) > 2 * self._config.most_peers:
            del self._at[next(iter(self._at))]
