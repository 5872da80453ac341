"""I/O: peers to begin with: seeds, by IP address or by name, and members on the local network.

Once a node has neighbours, it hears of others from them. Until then names are resolved again and
again, since addresses change, and whoever is on the local network is asked again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING

from gossip.addresses import interfaces, resolve
from p2p import Address, Peer, Swarm
from p2p.network_key import NetworkKey

if TYPE_CHECKING:
    from p2p.lan import Lan

log = logging.getLogger("gossip")

AGAIN = 5.0  # seconds until a node without neighbours tries again. A guess.


class Discovery:
    """Tells a swarm of peers to begin with.

    Args:
        listen: where we do.
        seeds: HOST:PORT each.
        keys: of the network to be found on the local network; none: do not look there.
        flush: called when the swarm has something to send.
    """

    def __init__(
        self,
        swarm: Swarm,
        listen: Address,
        seeds: Iterable[str],
        keys: Sequence[NetworkKey],
        flush: Callable[[], None],
    ) -> None:
        self._swarm = swarm
        self._listen = listen
        self._seeds = [Address.parse(text) for text in seeds]
        self._keys = keys
        self._flush = flush
        self._found: dict[Address, list[Address]] = {}  # what a seed's name stands for
        self._complained: dict[Address, None] = {}  # of names that do not resolve
        self._lan: Lan | None = None
        self._told = False  # that nobody is on the local network

    async def run(self) -> None:
        """Find peers, until cancelled."""
        await asyncio.gather(self.look_around(), *map(self._try, self._seeds))
        while True:
            await asyncio.sleep(AGAIN)
            alone = not self._swarm.neighbours
            due = [seed for seed in self._seeds if alone or seed not in self._found]
            await asyncio.gather(*map(self._try, due))
            if alone and self._lan is not None:
                self._look_again(self._lan)

    async def close(self) -> None:
        """Withdraw what we announced."""
        if self._lan is not None:
            await self._lan.close()

    # seeds ----------------------------------------------------------------------------------------

    async def _try(self, seed: Address) -> None:
        """Resolve a seed, and tell the swarm what has changed."""
        try:
            found = await resolve(seed, ip_address(self._listen.host).version)
        except (OSError, UnicodeError) as error:  # the latter: no name at all
            if seed not in self._complained:
                self._complained[seed] = None
                log.warning("cannot resolve %s: %s; still trying", seed, error)
            return
        self._complained.pop(seed, None)
        before, self._found[seed] = self._found.get(seed, []), found
        wanted = {address for addresses in self._found.values() for address in addresses}
        self._swarm.forget(address for address in before if address not in wanted)
        self._swarm.join(found, asyncio.get_running_loop().time())
        self._flush()

    # the local network ----------------------------------------------------------------------------

    async def look_around(self) -> None:
        """Announce ourselves, and listen for others."""
        if not self._keys or ip_address(self._listen.host).is_loopback:
            return
        from p2p.lan import Lan  # here, not above: it takes a while that others need not wait

        there = interfaces(self._listen)
        lan = Lan(self._swarm.me.id, self._listen.port, there, self._keys, self._meet)
        try:
            await lan.open()
        except OSError as error:
            log.warning(
                "cannot look for others on the local network: %s; --join HOST:PORT works without",
                error,
            )
        else:
            self._lan = lan

    def _look_again(self, lan: Lan) -> None:
        if not self._told:
            self._told = True
            if lan.peers:
                found = ", ".join(map(str, lan.peers.values()))
                log.warning("on the local network, but not linked: %s; still trying", found)
            else:
                log.warning(
                    "nobody else of network %s is on the local network; still looking. Members "
                    "have the same network key",
                    " or ".join(key.id.hex() for key in self._keys),
                )
        for peer in list(lan.peers.values()):
            self._meet(peer)

    def _meet(self, peer: Peer) -> None:
        self._swarm.meet(peer, asyncio.get_running_loop().time())
        self._flush()
