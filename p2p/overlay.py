"""Whom to have as neighbours: HyParView (Leitão, Pereira, Rodrigues, DSN 2007).

Every peer keeps two views: the *active* one, its links, and the *passive* one, a larger sample of
peers to fall back on. A newcomer is passed on along random walks, whose ends become its
neighbours; now and then two random peers shuffle parts of what they know. The outcome is close to
a random regular graph: connected even when most peers die at once.

Departures from the paper, which cost it connectivity: links are confirmed by both ends (see
`p2p.links`); a peer that lost a link looks for another at once rather than when it next sends; one
whose candidates have no room *seeks*, its name walking by every neighbour to whoever lacks a link
as well; now and then a link is *swapped* for one to a random peer that we know.

What others tell us is hearsay: one source (a peer that has proven who it is, or an address where
nobody does) fills a share of the passive view only, and changes no address that we have from
elsewhere; `p2p.diversity` says who may be a neighbour.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

from p2p.buckets import Buckets
from p2p.link import Link
from p2p.links import Links
from p2p.liveness import Say
from p2p.messages import Shuffle, Shuffled, Walk
from p2p.packet import Source
from p2p.peer import Peer, PeerId

LESSONS = 10  # messages at once; see OverlayConfig
WALKS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlayConfig:
    """Sizes and walks, from the paper (section 5) where nothing else is said."""

    passive: int = 30
    """Peers known besides the links."""

    spare: int = 200
    """Peers that made way in the passive view and are asked when nobody in it is left to ask. Where
    95 % of a network die at once, all of thirty are dead in one view of five, and all of a hundred
    in one of 170."""

    join_walk: int = 6
    """Steps that a newcomer's name travels (ARWL)."""

    passive_walk: int = 3
    """Steps to go when it enters a passive view on its way (PRWL)."""

    shuffle_walk: int = 6
    """Steps that a shuffle travels; as in iroh-gossip."""

    shuffle_active: int = 3
    """Neighbours in a shuffle."""

    shuffle_passive: int = 4
    """Others in a shuffle."""

    shuffle_every: float = 30.0
    """Seconds, a *cycle*. iroh-gossip takes 60."""

    swap: float = 0.01
    """Share of shuffles with which a link is replaced by one to a random peer that we know. Without
    it cliques that have closed stay closed, and what lies between islands stays narrow."""

    seek_walk: int = 15
    """Steps at most that the name of a peer that lacks a link travels; as many as a walk may."""

    one_source: float = 0.3
    """Share of the passive view that one peer may have told us of."""

    lessons: float = 0.2
    """Messages a second in which one peer may tell us of others; ten at once. Three times what the
    shuffles of a whole small network come to. A guess."""

    walks: float = 5.0
    """Walks a second that we pass on for one neighbour; a hundred at once, which is what a
    hundred newcomers at one contact take. A guess."""


class Overlay:
    """The passive view, and the walks that fill it."""

    def __init__(
        self,
        me: Peer,
        config: OverlayConfig,
        rng: Random,
        links: Links,
        say: Say,
    ) -> None:
        self.passive: dict[PeerId, Peer] = {}
        self._spare: dict[PeerId, Peer] = {}  # made way in the passive view; the oldest first
        self._told: dict[PeerId, Source] = {}  # who told us, of those whom we have not met
        self._lessons: Buckets[Source] = Buckets(config.lessons, LESSONS)
        self._walks: Buckets[Source] = Buckets(config.walks, WALKS)
        self._me = me
        self._config = config
        self._rng = rng
        self._links = links
        self._say = say
        self._number = 0  # of our last shuffle
        self._offered: list[PeerId] = []  # in our last shuffle: the first to make room

    # the passive view ----------------------------------------------------------------------------

    def remember(
        self, peer: Peer, source: Source | None = None, *, instead_of: Iterable[PeerId] = ()
    ) -> None:
        """Put a peer into the passive view. A full view loses one of `instead_of`, or any; but who
        has told us of his share already makes way for himself.

        Args:
            source: who told us; None if we have met the peer ourselves.
        """
        if peer.id == self._me.id or peer.id in self._links.up:
            return
        known = peer.id in self.passive
        if known and source is not None and self._told.get(peer.id) != source:
            return  # hearsay changes no address that we have from elsewhere
        if not known:
            self._make_room(source, instead_of)
        self._spare.pop(peer.id, None)
        self.passive[peer.id] = peer
        if source is None:
            self._told.pop(peer.id, None)
        else:
            self._told[peer.id] = source

    def _make_room(self, source: Source | None, instead_of: Iterable[PeerId]) -> None:
        config = self._config
        victims = [id for id, told in self._told.items() if told == source]
        if source is None or len(victims) < max(1, int(config.one_source * config.passive)):
            if len(self.passive) < config.passive:
                return
            victims = [id for id in instead_of if id in self.passive] or list(self.passive)
        victim = self._rng.choice(victims)
        self._spare[victim] = self.passive[victim]
        if len(self._spare) > config.spare:
            del self._spare[next(iter(self._spare))]
        self.forget(victim)

    def learn(
        self, peers: Iterable[Peer], source: Source, now: float, offered: Sequence[PeerId] = ()
    ) -> None:
        """Somebody tells us of peers, in exchange for those that we offered."""
        if self._lessons.take(source, now):
            for peer in peers:
                self.remember(peer, source, instead_of=offered)

    def forget(self, peer: PeerId) -> None:
        """Take a peer out of the passive view."""
        self.passive.pop(peer, None)
        self._told.pop(peer, None)

    def candidates(self, most: int) -> list[Peer]:
        """Random peers to ask for a link. Of those who made way in the view each comes once."""
        found = self._askable(self.passive, most)
        if len(found) < most:
            spare = self._askable(self._spare, most - len(found))
            for peer in spare:
                del self._spare[peer.id]
            found += spare
        return found

    def _askable(self, peers: dict[PeerId, Peer], most: int) -> list[Peer]:
        links = self._links
        free = [
            peer
            for peer in peers.values()
            if not links.knows(peer.address) and not links.crowded(peer.address)
        ]
        return self._rng.sample(free, max(0, min(most, len(free))))

    def some(self, most: int) -> tuple[Peer, ...]:
        """Some peers, to tell others about."""
        peers = [link.peer for link in self._links.up.values() if link.peer]
        peers += self.passive.values()
        return tuple(self._rng.sample(peers, min(most, len(peers))))

    # walks ---------------------------------------------------------------------------------------

    def introduce(self, joined: Peer) -> None:
        """Pass the name of a newcomer to all other neighbours."""
        for link in self._others(joined.id):
            self._say(link.to, Walk(link.theirs, joined, self._config.join_walk))

    def seek(self) -> None:
        """Pass our own name on, to whoever lacks a link as we do. When few do, random candidates
        have no room, and a walk by every neighbour sees ten times as many peers."""
        for link in self._links.up.values():
            self._say(link.to, Walk(link.theirs, self._me, self._config.seek_walk))

    def on_walk(self, link: Link, walk: Walk, source: Source, now: float) -> None:
        """Take somebody who lacks links as a neighbour, or pass the name on."""
        joined = walk.joined
        if not self._walks.take(source, now):
            return
        onward = [other for other in self._others(joined.id) if other is not link]
        ttl = min(walk.ttl, self._config.seek_walk)
        met = joined.id == self._me.id or joined.id in self._links.up
        if self._links.room > 0 and not met:
            self._links.request(joined, now, ours=False)
            return
        if ttl in (0, self._config.passive_walk) or not onward:
            self.remember(joined, source)
        if ttl == 0 or not onward:
            return
        step = self._rng.choice(onward)
        self._say(step.to, Walk(step.theirs, joined, ttl - 1))

    def swap(self, now: float) -> None:
        """Now and then, or if too few links are our choice, exchange one for one that is."""
        links = self._links
        if links.room <= 0 and (links.lacks_ours or self._rng.random() < self._config.swap):
            for candidate in self.candidates(1):
                links.request(candidate, now, extra=True)

    def shuffle(self) -> None:
        """Offer some of what we know to a random peer some steps away."""
        links = list(self._links.up.values())
        if not links:
            return
        config = self._config
        first = self._rng.choice(links)
        active = [link.peer for link in links if link.peer and link is not first]
        passive = list(self.passive.values())
        offer = self._rng.sample(active, min(config.shuffle_active, len(active)))
        offer += self._rng.sample(passive, min(config.shuffle_passive, len(passive)))
        self._number = self._rng.getrandbits(63)
        self._offered = [peer.id for peer in offer]
        message = Shuffle(first.theirs, self._me, self._number, config.shuffle_walk, tuple(offer))
        self._say(first.to, message)

    def on_shuffle(self, link: Link, shuffle: Shuffle, source: Source, now: float) -> None:
        """Swap with the origin, or pass it on."""
        if shuffle.origin.id == self._me.id or not self._walks.take(source, now):
            return
        onward = [other for other in self._others(shuffle.origin.id) if other is not link]
        ttl = min(shuffle.ttl, self._config.shuffle_walk) - 1
        if ttl > 0 and onward:
            step = self._rng.choice(onward)
            passed_on = Shuffle(step.theirs, shuffle.origin, shuffle.number, ttl, shuffle.peers)
            self._say(step.to, passed_on)
            return
        passive = list(self.passive.values())
        answer = self._rng.sample(passive, min(len(shuffle.peers) + 1, 8, len(passive)))
        self._say(shuffle.origin, Shuffled(shuffle.number, tuple(answer)))
        offered = [peer.id for peer in answer]
        self.learn((shuffle.origin, *shuffle.peers), source, now, offered)

    def on_shuffled(self, message: Shuffled, source: Source, now: float) -> None:
        """Take in the other half; only if it answers our last shuffle."""
        if self._number and message.number == self._number:
            self._number = 0
            self.learn(message.peers, source, now, self._offered)

    def _others(self, peer: PeerId) -> list[Link]:
        return [link for id, link in self._links.up.items() if id != peer]
