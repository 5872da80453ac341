"""Whom to have as neighbours: HyParView (Leitão, Pereira, Rodrigues, DSN 2007).

Every peer keeps two views: the *active* one, its links, and the *passive* one, a larger sample of
peers to fall back on. A newcomer is passed on along random walks, whose ends become its
neighbours; now and then two random peers shuffle parts of what they know. The outcome is close to
a random regular graph: connected even when most peers die at once.

Departures from the paper, which cost it connectivity: links are confirmed by both ends (see
`p2p.links`), and a peer that lost a link looks for another at once rather than when it next sends.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from p2p.link import Link
from p2p.links import Links
from p2p.liveness import Say
from p2p.messages import Shuffle, Shuffled, Walk
from p2p.peer import Peer, PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlayConfig:
    """Sizes and walks, from the paper (section 5) where nothing else is said."""

    passive: int = 30
    """Peers known besides the links."""

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
    """Seconds. iroh-gossip takes 60."""


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
        self._me = me
        self._config = config
        self._rng = rng
        self._links = links
        self._say = say
        self._number = 0  # of our last shuffle
        self._offered: list[PeerId] = []  # in our last shuffle: the first to make room

    # the passive view ----------------------------------------------------------------------------

    def remember(self, peer: Peer, *, instead_of: Iterable[PeerId] = ()) -> None:
        """Put a peer into the passive view; a full view loses one of `instead_of`, or any."""
        if peer.id == self._me.id or peer.id in self._links.up:
            return
        if peer.id not in self.passive and len(self.passive) >= self._config.passive:
            victims = [id for id in instead_of if id in self.passive] or list(self.passive)
            del self.passive[self._rng.choice(victims)]
        self.passive[peer.id] = peer

    def forget(self, peer: PeerId) -> None:
        """Take a peer out of the passive view."""
        self.passive.pop(peer, None)

    def candidates(self, most: int) -> list[Peer]:
        """Random peers to ask for a link."""
        known = [peer for peer in self.passive.values() if not self._links.knows(peer.address)]
        return self._rng.sample(known, max(0, min(most, len(known))))

    def known(self, most: int) -> tuple[Peer, ...]:
        """Some peers, to tell others about."""
        peers = [link.peer for link in self._links.up.values() if link.peer]
        peers += self.passive.values()
        return tuple(self._rng.sample(peers, min(most, len(peers))))

    # walks ---------------------------------------------------------------------------------------

    def introduce(self, joined: Peer) -> None:
        """Pass the name of a newcomer to all other neighbours."""
        for link in self._others(joined.id):
            self._say(link.to, Walk(link.theirs, joined, self._config.join_walk))

    def on_walk(self, link: Link, walk: Walk, now: float) -> None:
        """Take the newcomer as a neighbour, or pass it on."""
        joined = walk.joined
        onward = [other for other in self._others(joined.id) if other is not link]
        ttl = min(walk.ttl, self._config.join_walk)
        if ttl == 0 or not onward:
            if self._links.room > 0:
                self._links.request(joined, now)
            else:
                self.remember(joined)
            return
        if ttl == self._config.passive_walk:
            self.remember(joined)
        step = self._rng.choice(onward)
        self._say(step.to, Walk(step.theirs, joined, ttl - 1))

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

    def on_shuffle(self, link: Link, shuffle: Shuffle) -> None:
        """Swap with the origin, or pass it on."""
        if shuffle.origin.id == self._me.id:
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
        self._take_in((shuffle.origin, *shuffle.peers), [peer.id for peer in answer])

    def on_shuffled(self, message: Shuffled) -> None:
        """Take in the other half; only if it answers our last shuffle."""
        if self._number and message.number == self._number:
            self._number = 0
            self._take_in(message.peers, self._offered)

    def _take_in(self, peers: Iterable[Peer], offered: list[PeerId]) -> None:
        for peer in peers:
            self.remember(peer, instead_of=offered)

    def _others(self, peer: PeerId) -> list[Link]:
        return [link for id, link in self._links.up.items() if id != peer]
