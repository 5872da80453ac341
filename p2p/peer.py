"""Who somebody is on the network, and where to reach them."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

ID_SIZE = 32  # bytes; a raw Ed25519 public key


class PeerId(bytes):
    """An Ed25519 public key, 32 bytes; as text, 52 letters and digits of base32."""

    __slots__ = ()

    def __new__(cls, key: bytes) -> PeerId:
        if len(key) != ID_SIZE:
            raise ValueError(f"a peer id is {ID_SIZE} bytes, not {len(key)}")
        return super().__new__(cls, key)

    @classmethod
    def parse(cls, text: str) -> PeerId:
        """Read the text form back. Raises ValueError."""
        try:
            return cls(base64.b32decode(text.upper() + "===="))
        except ValueError as error:
            raise ValueError(f"{text!r} is not a peer id: {error}") from None

    def __str__(self) -> str:
        return _text(self)

    def __repr__(self) -> str:
        return f"PeerId({self.short})"

    @property
    def short(self) -> str:
        """The first eight characters: enough for people, never for decisions."""
        return str(self)[:8]


@lru_cache(4096)
def _text(key: bytes) -> str:
    return base64.b32encode(key).decode().rstrip("=").lower()


class Address(NamedTuple):
    """Where a peer listens: one number for its UDP and its TCP port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `HOST:PORT`; an IPv6 host stands in brackets. Raises ValueError."""
        host, colon, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"{text!r} is not HOST:PORT, for example 10.0.0.5:7946")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Peer:
    """Somebody on the network."""

    id: PeerId
    address: Address

    def __str__(self) -> str:
        return f"{self.id.short} at {self.address}"
