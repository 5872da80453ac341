"""I/O: where a node listens, and where others reach it."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address

import ifaddr

from gossip.errors import ConfigError
from p2p import Address

OUTSIDE = {4: "198.51.100.1", 6: "2001:db8::1"}  # for documentation (RFC 5737, RFC 3849): nobody's


async def resolve(address: Address) -> Address:
    """The first IP address of a name. Raises OSError, and UnicodeError for what is no name."""
    found = await asyncio.get_running_loop().getaddrinfo(address.host, address.port)
    host, port = found[0][4][:2]
    return Address(str(host), int(port))


async def own(text: str) -> Address:
    """An address of this machine to listen on. Raises ConfigError."""
    try:
        return await resolve(Address.parse(text))
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"cannot listen on {text}: {error}; give an address of this machine, for example "
            "127.0.0.1:0"
        ) from None


async def own_loopback(text: str, why: str) -> Address:
    """As `own`, but only this machine may reach it. Raises ConfigError, which says why."""
    address = await own(text)
    if not ip_address(address.host).is_loopback:
        raise ConfigError(f"cannot listen on {text}: {why}, or use 127.0.0.1:{address.port}")
    return address


def advertised(listen: Address) -> Address:
    """Where others reach a node that listens there.

    A node that listens on all interfaces names the address with which it would reach the outside,
    or where there is no way out, that of its first interface; only loopback is left where there
    is none either.
    """
    host = ip_address(listen.host)
    if not host.is_unspecified:
        return listen
    outward = _outward(host.version)
    found = [outward] if outward else interfaces(host.version)
    loopback = "127.0.0.1" if host.version == 4 else "::1"
    return Address(found[0] if found else loopback, listen.port)


def interfaces(version: int) -> list[str]:
    """The addresses of this machine's interfaces, without loopback and link-local ones."""
    texts = (
        entry.ip if isinstance(entry.ip, str) else entry.ip[0]
        for adapter in ifaddr.get_adapters()
        for entry in adapter.ips
    )
    hosts = [ip_address(text.partition("%")[0]) for text in texts]
    return [
        str(host)
        for host in hosts
        if host.version == version and not host.is_loopback and not host.is_link_local
    ]


def _outward(version: int) -> str | None:
    """The address that the system would send from; asking sends nothing."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect((OUTSIDE[version], 9))
        except OSError:
            return None
        return str(asking.getsockname()[0])
