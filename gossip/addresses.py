"""I/O: where a node listens, and where others reach it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface

import ifaddr

from gossip.errors import ConfigError
from p2p import Address

OUTSIDE = {4: "198.51.100.1", 6: "2001:db8::1"}  # for documentation (RFC 5737, RFC 3849): nobody's
MOST_ADDRESSES = 16  # of one name. A guess.


async def resolve(address: Address, version: int | None = None) -> list[Address]:
    """The IP addresses of a name, the first few; with `version`, only those of IPv4 or IPv6.

    Raises OSError, and UnicodeError for what is no name.
    """
    family = {None: socket.AF_UNSPEC, 4: socket.AF_INET, 6: socket.AF_INET6}[version]
    found = await asyncio.get_running_loop().getaddrinfo(
        address.host, address.port, family=family, type=socket.SOCK_STREAM
    )
    distinct = dict.fromkeys(Address(str(at[0]), int(at[1])) for *_, at in found)
    return list(distinct)[:MOST_ADDRESSES]


async def own(text: str) -> Address:
    """An address of this machine to listen on. Raises ConfigError."""
    try:
        return (await resolve(Address.parse(text)))[0]
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


def advertised(listen: Address, seeds: Iterable[Address] = ()) -> Address:
    """Where others reach a node that listens there.

    A node that listens on all interfaces names the address with which it would reach the first
    seed that is given as an IP address, or else the outside; where there is no way to either, that
    of its first interface; only loopback is left where there is none either.
    """
    host = ip_address(listen.host)
    if not host.is_unspecified:
        return listen
    outward = _towards([*(seed.host for seed in seeds), OUTSIDE[host.version]], host.version)
    found = [outward] if outward else [str(there.ip) for there in interfaces(listen)]
    loopback = "127.0.0.1" if host.version == 4 else "::1"
    return Address(found[0] if found else loopback, listen.port)


def interfaces(listen: Address) -> list[IPv4Interface | IPv6Interface]:
    """Those on which a node listens that others may reach: no loopback, and no link-local address,
    which means nothing to others."""
    at = ip_address(listen.host)
    entries = (entry for adapter in ifaddr.get_adapters() for entry in adapter.ips)
    found = [
        ip_interface(f"{_text(entry.ip).partition('%')[0]}/{entry.network_prefix}")
        for entry in entries
    ]
    return [
        there
        for there in found
        if there.version == at.version
        and not there.ip.is_loopback
        and not there.ip.is_link_local
        and (at.is_unspecified or there.ip == at)
    ]


def _text(address: str | tuple[str, int, int]) -> str:
    return address if isinstance(address, str) else address[0]


def _towards(hosts: Iterable[str], version: int) -> str | None:
    """The address from which the system would send there; asking sends nothing."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    for host in hosts:
        with socket.socket(family, socket.SOCK_DGRAM) as asking:
            try:
                if ip_address(host).version != version or ip_address(host).is_loopback:
                    continue
                asking.connect((host, 9))
            except (OSError, ValueError):  # no way there; or a name, which may take long to resolve
                continue
            return str(asking.getsockname()[0])
    return None
