"""Many swarms in virtual time, without agents: what the overlay looks like from above.

Reliability is the share of those alive that a flood over the links reaches, the mean over random
beginnings; it counts a link only from an end that believes in it to an end that lives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from hashlib import sha256
from random import Random

from p2p import Address, Peer, PeerDown, PeerId, Swarm, SwarmConfig
from sims.network import Link, Network

PORT = 7946
REPAIR = 8.0  # seconds: one round of requests, answered or given up (`LinkConfig`)


def peer(index: int) -> Peer:
    """The peer of that number, on 10.0.0.0/8."""
    key = PeerId(sha256(b"%d" % index).digest())
    host = f"10.{index >> 16}.{index >> 8 & 255}.{index & 255}"
    return Peer(key, Address(host, PORT))


class Crowd:
    """Swarms by number; the first is everybody's contact unless said otherwise."""

    def __init__(
        self, seed: int = 0, link: Link | None = None, config: SwarmConfig | None = None
    ) -> None:
        self.swarms: dict[int, Swarm] = {}
        self.downs: list[tuple[float, PeerId, PeerDown]] = []  # when, to whom, what
        self.network = Network(seed, link, self._on_event)
        self._seed = seed
        self._config = config or SwarmConfig()
        self._rng = Random(f"crowd {seed}")
        self._ids: dict[Address, PeerId] = {}
        self._by_id: dict[PeerId, Swarm] = {}

    def _on_event(self, address: Address, event: object, now: float) -> None:
        if isinstance(event, PeerDown):
            self.downs.append((now, self._ids[address], event))

    # commands ------------------------------------------------------------------------------------

    def start(
        self, index: int, *contacts: int, cached: tuple[Peer, ...] = (), incarnation: int = 1
    ) -> None:
        """Add one that joins through those contacts."""
        rng = Random(f"{self._seed}/{index}/{incarnation}")
        one = Swarm(peer(index), self._config, rng, incarnation)
        one.join([peer(i).address for i in contacts], self.network.now, cached=cached)
        self.swarms[index] = self._by_id[one.me.id] = one
        self._ids[one.me.address] = one.me.id
        self.network.attach(one, one.me.address)

    def grow(self, nodes: int, *, rate: float, settle: float) -> None:
        """Start the numbers up to `nodes`, so many a second, and let `settle` seconds pass."""
        first = len(self.swarms)
        for index in range(first, nodes):
            at = self.network.now + (index - first) / rate
            self.network.call_at(at, self.start, index, *([0] if index else []))
        self.network.run((nodes - first) / rate + settle)

    def crash(self, *indices: int) -> None:
        """Take some off the network without a word."""
        for index in indices:
            one = self.swarms.pop(index)
            del self._by_id[one.me.id]
            self.network.detach(one.me.address)

    def crash_share(self, share: float) -> None:
        """Crash so many of all at once."""
        self.crash(*self._rng.sample(list(self.swarms), round(share * len(self.swarms))))

    def detect(self, limit: float = 300.0) -> float:
        """Run until no link with the dead is left and those who lost one have asked for another;
        returns the seconds that this took."""
        began = self.network.now
        while self.undetected() and self.network.now < began + limit:
            self.network.run(1.0)
        self.network.run(REPAIR)
        return self.network.now - began

    def partition(self, *sides: Iterable[int]) -> None:
        """Cut the network between groups."""
        self.network.partition(*([peer(i).address for i in side] for side in sides))

    # what it looks like --------------------------------------------------------------------------

    def degrees(self) -> Counter[int]:
        """How many have how many links."""
        return Counter(len(one.neighbours) for one in self.swarms.values())

    def one_sided(self) -> int:
        """Links of which only one end knows, those to the dead included, now and a second later:
        while a link is being made or ended, one end knows first."""
        before = self._halves()
        self.network.run(1.0)
        return len(before & self._halves())

    def _halves(self) -> set[tuple[PeerId, PeerId]]:
        return {
            (one.me.id, other)
            for one in self.swarms.values()
            for other in one.neighbours
            if other not in self._by_id or one.me.id not in self._by_id[other].neighbours
        }

    def undetected(self) -> int:
        """Links with the dead."""
        ends = (other for one in self.swarms.values() for other in one.neighbours)
        return sum(other not in self._by_id for other in ends)

    def distances(self, start: Swarm) -> dict[PeerId, int]:
        """How many links away everybody is whom a flood from there reaches."""
        distance = {start.me.id: 0}
        frontier = [start.me.id]
        while frontier:
            reached = []
            for id in frontier:
                for other in self._by_id[id].neighbours:
                    if other in self._by_id and other not in distance:
                        distance[other] = distance[id] + 1
                        reached.append(other)
            frontier = reached
        return distance

    def reliability(self, floods: int = 20) -> float:
        """The share of those alive that a flood reaches, on average."""
        starts = self._rng.choices(list(self.swarms.values()), k=floods)
        reached = sum(len(self.distances(one)) for one in starts)
        return reached / floods / len(self.swarms)

    def average_path(self, floods: int = 50) -> float:
        """Links between two of those alive, on average."""
        starts = self._rng.choices(list(self.swarms.values()), k=floods)
        found = [self.distances(one) for one in starts]
        return sum(sum(far.values()) for far in found) / sum(len(far) - 1 for far in found)

    def connected(self) -> bool:
        """Whether a flood reaches everybody, wherever it begins (links are mutual)."""
        return len(self.distances(next(iter(self.swarms.values())))) == len(self.swarms)
