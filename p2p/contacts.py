"""Whom to get in touch with from outside the views: seeds, and peers that we have lost.

Seeds are asked again and again until each has answered. Later both are asked now and then, since
the network may have split: whoever is on another island is in nobody's view on ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from p2p.events import SeedUnreachable
from p2p.links import Links
from p2p.peer import Address, Peer, PeerId
from p2p.timers import Timers

ALONE = 5  # lost peers that are asked at a time by who has no neighbour


@dataclass(frozen=True, slots=True, kw_only=True)
class ContactsConfig:
    """How often others are asked."""

    seed_every: float = 2.0
    """Seconds between rounds of requests to a seed that does not answer; doubles. A guess."""

    seed_most: float = 30.0
    """Seconds; where that doubling ends. A guess."""

    reunite_every: float = 30.0
    """Seconds between two attempts to reach a seed or a lost peer that is no neighbour. Without
    them, halves of a network that was split for longer than links live never meet again
    (iroh-gossip #152). serf tries every 30 s."""

    lost: int = 30
    """Lost peers that are remembered for that; as many as the passive view holds."""


class Contacts:
    """Seeds and lost peers of one peer.

    Args:
        round_: seconds in which a request that `links` makes is answered or has failed.
    """

    def __init__(
        self, me: Peer, config: ContactsConfig, rng: Random, links: Links, round_: float
    ) -> None:
        self._me = me
        self._config = config
        self._rng = rng
        self._links = links
        self._round = round_
        self._seeds: dict[Address, int] = {}  # rounds without an answer; 0 once there was one
        self._lost: dict[PeerId, Peer] = {}
        self._timers: Timers[Address] = Timers()  # of seeds that are being asked

    # seeds ---------------------------------------------------------------------------------------

    def add(self, seeds: Iterable[Address], now: float) -> None:
        """Ask these until each has answered."""
        for seed in seeds:
            if seed != self._me.address and seed not in self._seeds:
                self._seeds[seed] = 0
                self._try(seed, now)

    def forget(self, seeds: Iterable[Address]) -> None:
        """Stop trying these."""
        for seed in seeds:
            if self._seeds.pop(seed, None) is not None:
                self._timers.cancel(seed)

    def try_seeds(self, now: float) -> None:
        """Ask all that are not being asked."""
        for seed in self._seeds:
            if seed not in self._timers:
                self._try(seed, now)

    def answered(self, address: Address) -> None:
        """Somebody there has answered."""
        if address in self._seeds:
            self._seeds[address] = 0
            self._timers.cancel(address)

    def _try(self, address: Address, now: float) -> None:
        if any(link.address == address for link in self._links.up.values()):
            self.answered(address)
            return
        self._seeds[address] += 1
        self._links.request(address, now, joining=True)
        # the links repeat the request meanwhile; a round is over when they give up
        pause = min(
            self._config.seed_every * 2 ** (self._seeds[address] - 1), self._config.seed_most
        )
        self._timers.set(address, now + self._round + pause * self._rng.uniform(0.75, 1.25))

    # lost peers ----------------------------------------------------------------------------------

    def lose(self, peer: Peer) -> None:
        """Nobody answers there now; perhaps some day."""
        self._lost.pop(peer.id, None)
        self._lost[peer.id] = peer
        if len(self._lost) > self._config.lost:
            del self._lost[next(iter(self._lost))]

    def drop(self, peer: PeerId) -> None:
        """It is not lost any more, or not to be asked."""
        self._lost.pop(peer, None)

    def reunite(self, now: float) -> None:
        """Ask somebody with whom we may have lost touch. A lost peer may be on another island whose
        members have no room, as ours have not, so there a link is forced; of a seed that would be
        too much to ask, and even its refusal tells us of its peers."""
        targets: list[Peer | Address] = [
            *(peer for peer in self._lost.values() if not self._links.knows(peer.address)),
            *(
                seed
                for seed in self._seeds
                if seed not in self._timers and not self._links.knows(seed)
            ),
        ]
        # Who is alone asks all of them in turn: whoever fails again goes to the end.
        asked = (
            self._rng.sample(targets, min(1, len(targets))) if self._links.up else targets[:ALONE]
        )
        for target in asked:
            self._links.request(target, now, extra=isinstance(target, Peer))

    # timers --------------------------------------------------------------------------------------

    def next_timeout(self) -> float:
        """When `handle_timeout` wants to be called."""
        return self._timers.next()

    def handle_timeout(self, now: float) -> list[SeedUnreachable]:
        """Ask again whoever has not answered; now and then, say so."""
        events = []
        for address in self._timers.pop_expired(now):
            attempts = self._seeds[address]
            self._try(address, now)
            if attempts.bit_count() == 1:  # the first, the second, the fourth round, ...
                events.append(SeedUnreachable(address, attempts))
        return events

    def stop(self) -> None:
        """Ask nobody any more."""
        self._timers = Timers()
