"""I/O: members on the local network, by multicast DNS (RFC 6762) and DNS-SD (RFC 6763).

Every node announces a service whose type names its network and whose name is its peer id, and
browses for others of that type. Anybody there may announce anything, so where we go stands in a
text record that only members can write: it carries an HMAC under a key derived from the network
key. Anybody may repeat an old one; it costs us a request in vain, since whoever answers there must
prove to be that peer.

Strangers on the local network see that a node of the network with this id is there, and who it is.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from ipaddress import IPv4Interface, IPv6Interface, ip_address

from zeroconf import Error, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from p2p.network_key import NetworkKey
from p2p.peer import Address, Peer, PeerId

Interface = IPv4Interface | IPv6Interface

VERSION = "1"
MOST_PEERS = 64  # that are remembered, the newest. A guess: twice the passive view.
MOST_ADDRESSES = 4  # of one peer: a text holds 255 bytes
MOST_ASKED = 16  # at a time for the rest of an announcement that came in parts. A guess.
ASKED_FOR = 3000.0  # milliseconds


class Lan:
    """Announces us on the local network, and hears of others.

    Args:
        port: on which we listen, on each of `interfaces`.
        keys: of our network; with two of them we announce under both and hear of either.
        on_found: called on the event loop with whoever is there, and again when he moves.
    """

    def __init__(
        self,
        me: PeerId,
        port: int,
        interfaces: Sequence[Interface],
        keys: Sequence[NetworkKey],
        on_found: Callable[[Peer], None],
    ) -> None:
        self.peers: dict[PeerId, Peer] = {}  # who is there, as far as we know
        self._me = me
        self._interfaces = interfaces[:MOST_ADDRESSES]
        self._at = [Address(str(interface.ip), port) for interface in self._interfaces]
        self._keys = {service_type(key): key for key in keys}
        self._on_found = on_found
        self._asking: dict[str, asyncio.Task[None]] = {}  # by the name of the service
        self._stack = AsyncExitStack()

    async def open(self) -> None:
        """Announce ourselves and listen. Raises OSError where that is not possible."""
        if not self._at:
            raise OSError("there is no network interface besides loopback")
        # It would complain of every datagram that a network which went away does not take.
        logging.getLogger("zeroconf").setLevel(logging.CRITICAL)
        async with AsyncExitStack() as stack:
            mdns = AsyncZeroconf([address.host for address in self._at])
            stack.push_async_callback(mdns.async_close)
            try:
                await self._announce(mdns)
            except Error as error:
                raise OSError(f"no multicast DNS: {error!r}") from error
            browser = AsyncServiceBrowser(mdns.zeroconf, list(self._keys), [self._on_change])
            stack.push_async_callback(browser.async_cancel)
            self._stack = stack.pop_all()

    async def close(self) -> None:
        """Withdraw what we announced, which takes a quarter of a second."""
        for task in self._asking.values():
            task.cancel()
        await self._stack.aclose()

    async def _announce(self, mdns: AsyncZeroconf) -> None:
        """Raises OSError and Error."""
        await mdns.zeroconf.async_wait_for_start()
        if not mdns.zeroconf.engine.senders:
            raise OSError(f"no multicast at {', '.join(address.host for address in self._at)}")
        for kind, key in self._keys.items():
            service = AsyncServiceInfo(
                kind,
                f"{self._me}.{kind}",
                self._at[0].port,
                properties=write(key, self._me, self._at),
                server=f"{self._me}.local.",
                parsed_addresses=[address.host for address in self._at],
            )
            # Nobody else has our id, so nobody has to be asked whether the name is free.
            await mdns.async_register_service(service, cooperating_responders=True)

    # others ---------------------------------------------------------------------------------------

    def _on_change(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        peer = _named(name, service_type)
        if peer in (None, self._me):
            return
        if state_change is ServiceStateChange.Removed:
            self.peers.pop(peer, None)  # anybody can say so; it ends no link
            return
        service = AsyncServiceInfo(service_type, name)
        if service.load_from_cache(zeroconf):
            self._read(peer, service)
        elif name not in self._asking and len(self._asking) < MOST_ASKED:
            self._asking[name] = asyncio.create_task(self._ask(zeroconf, peer, service))

    async def _ask(self, zeroconf: Zeroconf, peer: PeerId, service: AsyncServiceInfo) -> None:
        try:
            if await service.async_request(zeroconf, ASKED_FOR):
                self._read(peer, service)
        finally:
            del self._asking[service.name]

    def _read(self, peer: PeerId, service: AsyncServiceInfo) -> None:
        addresses = read(self._keys[service.type], peer, service.properties)
        if not addresses:
            return
        found = Peer(peer, self._nearest(addresses))
        if self.peers.get(peer) == found:
            return
        self.peers[peer] = found
        if len(self.peers) > MOST_PEERS:
            del self.peers[next(iter(self.peers))]
        self._on_found(found)

    def _nearest(self, addresses: Sequence[Address]) -> Address:
        """One in a network that we are in ourselves, if there is one."""
        for address in addresses:
            if any(ip_address(address.host) in there.network for there in self._interfaces):
                return address
        return addresses[0]


def service_type(key: NetworkKey) -> str:
    """The kind of service that members of a network are; 15 letters are all that DNS-SD allows."""
    return f"_gossip-{key.id.hex()[:8]}._udp.local."


def write(key: NetworkKey, peer: PeerId, addresses: Sequence[Address]) -> dict[str, str]:
    """The text record of a peer at these addresses."""
    at = ",".join(map(str, addresses[:MOST_ADDRESSES]))
    return {"v": VERSION, "at": at, "mac": _mac(key, peer, at)}


def read(
    key: NetworkKey, peer: PeerId, record: Mapping[bytes, bytes | None]
) -> list[Address] | None:
    """The addresses in a peer's text record; None if it is of another version or not a member's."""
    at, mac = record.get(b"at") or b"", record.get(b"mac") or b""
    try:
        text = at.decode("ascii")
    except UnicodeDecodeError:
        return None
    if record.get(b"v") != VERSION.encode() or not hmac.compare_digest(
        mac, _mac(key, peer, text).encode()
    ):
        return None
    return _addresses(text)


def _addresses(text: str) -> list[Address] | None:
    """Even a member may write nonsense."""
    try:
        addresses = [Address.parse(part) for part in text.split(",")[:MOST_ADDRESSES]]
        for address in addresses:
            ip_address(address.host)
    except ValueError:
        return None
    if not all(address.port for address in addresses):
        return None
    return addresses


def _mac(key: NetworkKey, peer: PeerId, at: str) -> str:
    said = f"{VERSION} {peer} {at}".encode()
    return hmac.digest(key.derive("lan discovery"), said, "sha256").hex()


def _named(name: str, kind: str) -> PeerId | None:
    try:
        return PeerId.parse(name.removesuffix(f".{kind}"))
    except ValueError:
        return None
