"""Against being surrounded: who may be a neighbour, and who must stay one.

Whoever controls all neighbours of a peer decides what it sees. Identities cost nothing, so neither
how many ask nor how often they ask may decide who the neighbours are:

* Some links are *ours*: we took the peer from our own view, or for one of these when it made way
  (so a chosen neighbour that lies can hand its place to an accomplice, and no more). No link that a
  stranger asks for pushes out the last of them. A peer that has too few of them because others were
  quicker to ask replaces a neighbour at its next shuffle (`p2p.overlay`).
* Few neighbours share a network, an IPv4 /24 or an IPv6 /48: addresses cost something, and those
  of one network cost little more than one of them. Private, loopback and link-local addresses are
  exempt, since a home or a laboratory is one such network; so is everybody in LAN mode.

Heilman, Kendler, Zohar, Goldberg, "Eclipse attacks on Bitcoin's peer-to-peer network" (2015),
measure what these two rules and an anchor kept across restarts are worth.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network

from p2p.link import Link
from p2p.peer import Address, PeerId

BURST = 5.0  # links that may be split at once


@lru_cache(4096)
def network(host: str) -> str | None:
    """The network that counts as one place, or None for an address that is not public."""
    address = ip_address(host)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if not address.is_global:
        return None
    bits = 24 if address.version == 4 else 48
    return str(ip_network((address, bits), strict=False))


def crowded(address: Address, links: Iterable[Link], most: int) -> bool:
    """Whether there are so many links with the network of that address already."""
    place = network(address.host)
    if place is None:
        return False
    return sum(network(link.address.host) == place for link in links) >= most


def spare(links: Iterable[Link], kept: int) -> list[Link]:
    """The links that may make way for another, if so many of our own choice must stay."""
    links = list(links)
    if sum(link.ours for link in links) > kept:
        return links
    return [link for link in links if not link.ours]


class Splits:
    """How often others may make us put them in the middle of a link.

    Args:
        every: seconds between two for one peer.
        rate: a second, for all together; BURST at once.
    """

    def __init__(self, every: float, rate: float) -> None:
        self._every = every
        self._rate = rate
        self._last: dict[PeerId, float] = {}
        self._left, self._since = BURST, 0.0  # how many more there may be, as of when

    def take(self, peer: PeerId, now: float) -> bool:
        """Whether this peer may have one now."""
        self._last = {id: at for id, at in self._last.items() if at > now - self._every}
        self._left = min(self._left + (now - self._since) * self._rate, BURST)
        self._since = now
        if peer in self._last or self._left < 1:
            return False
        self._left -= 1
        self._last[peer] = now
        return True
