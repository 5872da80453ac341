"""A swarm whose neighbours are given: for learning on a ring, a torus, any graph.

Everything but the choice of neighbours is the product's: links are asked for, confirmed, watched
and mourned, payloads and records travel. Who is down is asked again until it is back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from p2p import Address, Peer, PeerId, Swarm, SwarmConfig
from p2p.link import Link
from p2p.links import Links
from p2p.liveness import Say
from p2p.messages import Shuffle, Shuffled, Walk
from p2p.overlay import Overlay, OverlayConfig
from p2p.packet import Source


class FixedSwarm(Swarm):
    """A swarm that links with `others` and with nobody else."""

    def __init__(
        self,
        me: Peer,
        config: SwarmConfig,
        rng: Random,
        incarnation: int,
        others: Sequence[Peer],
        **rest: Any,
    ) -> None:
        links = replace(config.links, most=max(1, len(others)), lan=True)
        super().__init__(me, replace(config, links=links), rng, incarnation, **rest)
        self._others = others
        self._overlay = _Given(me, config.overlay, rng, self._links, self._say, others)

    def join(self, seeds: Iterable[Address], now: float, *, cached: Sequence[Peer] = ()) -> None:
        """Ask the neighbours for links, whatever the seeds."""
        super().join((), now, cached=self._others)


class _Given(Overlay):
    """Knows its neighbours, learns of nobody, and passes on no names."""

    def __init__(
        self,
        me: Peer,
        config: OverlayConfig,
        rng: Random,
        links: Links,
        say: Say,
        others: Sequence[Peer],
    ) -> None:
        super().__init__(me, config, rng, links, say)
        self._all = {peer.id: peer for peer in others}

    def candidates(self, most: int) -> list[Peer]:
        """Neighbours that are not linked yet."""
        return self._askable(self._all, most)

    def remember(
        self, peer: Peer, source: Source | None = None, *, instead_of: Iterable[PeerId] = ()
    ) -> None:
        """Nobody is."""

    def learn(
        self, peers: Iterable[Peer], source: Source, now: float, offered: Sequence[PeerId] = ()
    ) -> None:
        """Of nobody."""

    def introduce(self, joined: Peer) -> None:
        """To nobody."""

    def seek(self) -> None:
        """Nobody."""

    def swap(self, now: float) -> None:
        """Nothing."""

    def shuffle(self) -> None:
        """Nothing."""

    def on_walk(self, link: Link, walk: Walk, source: Source, now: float) -> None:
        """It ends here."""

    def on_shuffle(self, link: Link, shuffle: Shuffle, source: Source, now: float) -> None:
        """It ends here."""

    def on_shuffled(self, message: Shuffled, source: Source, now: float) -> None:
        """We have not asked."""
