"""How messages become bytes, and how bytes from strangers become messages.

A frame is one msgpack array followed by a body:

    [tag, field, field, ...] body

The array is positional and append-only: a reader ignores what a newer version appended, and a
message of an older version gets the default of the fields that it lacks. Bodies (compressed
vectors) never enter msgpack, and only messages whose row says so have one.

Everything a peer can get wrong is found here, before anything is applied: `Table.decode` raises
`WireError` or returns a message whose every field is of its type and within its limits. The array
is at most MAX_HEADER bytes and holds no maps and no extension types, and msgpack is handed no more
than that, so no length it claims can allocate more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from functools import lru_cache
from ipaddress import ip_address
from reprlib import Repr
from typing import Any, Generic, TypeVar

import msgpack

from p2p.errors import UnknownMessage, WireError
from p2p.peer import ID_SIZE, Address, Peer, PeerId

MAX_HEADER = 1024  # bytes of the array; a shuffle of eight peers takes half of it

_BRIEF = Repr()  # a thousand arrays, one in another, fit a header, and are too many for `repr`
_BRIEF.maxlevel, _BRIEF.maxlist, _BRIEF.maxstring, _BRIEF.maxother = 3, 16, 60, 60

Value = TypeVar("Value")
Other = TypeVar("Other")
Message = TypeVar("Message")


@dataclass(frozen=True, slots=True)
class Field(Generic[Value]):
    """How one value is checked on its way in and turned into msgpack's types on its way out."""

    read: Callable[[Any], Value]
    write: Callable[[Value], Any] = lambda value: value


# fields -------------------------------------------------------------------------------------------


def integer(low: int, high: int) -> Field[int]:
    """An integer from `low` to `high`, both included."""

    def read(raw: Any) -> int:
        if type(raw) is not int or not low <= raw <= high:  # a bool is an int in Python
            raise WireError(f"{_show(raw)} is not an integer from {low} to {high}")
        return raw

    return Field(read, read)  # a number of ours that is too large is found here, not by every peer


def binary(size: int, *, exact: bool = False) -> Field[bytes]:
    """At most `size` bytes, or exactly that many."""

    def read(raw: Any) -> bytes:
        if type(raw) is not bytes or len(raw) > size or (exact and len(raw) != size):
            raise WireError(f"{_show(raw)} is not {'' if exact else 'at most '}{size} bytes")
        return raw

    return Field(read)


def text(size: int) -> Field[str]:
    """At most `size` bytes of UTF-8, all printable: it may end up on a terminal."""

    def read(raw: Any) -> str:
        if type(raw) is not str or not raw.isprintable() or len(raw.encode()) > size:
            raise WireError(f"{_show(raw)} is not a printable text of at most {size} bytes")
        return raw

    return Field(read, read)


def sequence(item: Field[Value], most: int) -> Field[tuple[Value, ...]]:
    """At most `most` items."""

    def read(raw: Any) -> tuple[Value, ...]:
        if type(raw) is not list or len(raw) > most:
            raise WireError(f"{_show(raw)} is not an array of at most {most}")
        return tuple(item.read(entry) for entry in raw)

    return Field(read, lambda values: [item.write(value) for value in values])


def pair(first: Field[Value], second: Field[Other]) -> Field[tuple[Value, Other]]:
    """Two values."""

    def read(raw: Any) -> tuple[Value, Other]:
        if type(raw) is not list or len(raw) != 2:
            raise WireError(f"{_show(raw)} is not a pair")
        return first.read(raw[0]), second.read(raw[1])

    return Field(read, lambda values: [first.write(values[0]), second.write(values[1])])


def optional(item: Field[Value]) -> Field[Value | None]:
    """A value or nothing."""
    return Field(
        lambda raw: None if raw is None else item.read(raw),
        lambda value: None if value is None else item.write(value),
    )


def _read_boolean(raw: Any) -> bool:
    if type(raw) is not bool:
        raise WireError(f"{_show(raw)} is not true or false")
    return raw


def _read_number(raw: Any) -> float:
    if type(raw) is not float:
        raise WireError(f"{_show(raw)} is not a float")
    return raw


def _read_peer(raw: Any) -> Peer:
    if type(raw) is not list or len(raw) != 3:
        raise WireError(f"{_show(raw)} is not a peer")
    return Peer(PeerId(_ID.read(raw[0])), Address(_unpack(_HOST.read(raw[1])), _PORT.read(raw[2])))


def _write_peer(peer: Peer) -> list[Any]:
    return [bytes(peer.id), _pack(peer.address.host), peer.address.port]


@lru_cache(4096)
def _unpack(packed: bytes) -> str:
    # Addresses travel as numbers: a name from a stranger would let him steer our resolver.
    if len(packed) not in (4, 16):
        raise WireError(f"{len(packed)} bytes are not an IP address")
    return str(ip_address(packed))


@lru_cache(4096)
def _pack(host: str) -> bytes:
    return ip_address(host).packed


_ID = binary(ID_SIZE, exact=True)
_HOST = binary(16)
_PORT = integer(1, 65535)

boolean = Field(_read_boolean)
number = Field(_read_number)  # NaN and infinity too
peer_id: Field[PeerId] = Field(lambda raw: PeerId(_ID.read(raw)), bytes)
peer: Field[Peer] = Field(_read_peer, _write_peer)


# messages -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row(Generic[Message]):
    """One message: its number on the wire, its class, and the fields of that class in order."""

    tag: int
    kind: type[Message]
    fields: tuple[Field[Any], ...]
    names: tuple[str, ...]
    required: int  # how many fields have no default
    body: bool


def row(tag: int, kind: Any, *readers: Field[Any], body: bool = False) -> Row[Any]:
    """A row of a `Table` for a dataclass; `body` says that bytes may follow the array."""
    declared = fields(kind)
    if len(readers) != len(declared):
        raise ValueError(f"{kind.__name__} has another number of fields than its row")
    required = sum(field.default is MISSING for field in declared)
    return Row(tag, kind, readers, tuple(field.name for field in declared), required, body)


class Table(Generic[Message]):
    """Every message of one protocol. Tags and fields are only ever appended."""

    def __init__(self, *rows: Row[Any]) -> None:
        self._by_tag: dict[int, Row[Any]] = {entry.tag: entry for entry in rows}
        self._by_kind: dict[type, Row[Any]] = {entry.kind: entry for entry in rows}
        if len(self._by_tag) != len(rows):
            raise ValueError("two messages have the same tag")

    def encode(self, message: Message, body: bytes | memoryview = b"") -> bytes:
        """One message as bytes."""
        entry = self._by_kind[type(message)]
        values = [
            field.write(getattr(message, name))
            for field, name in zip(entry.fields, entry.names, strict=True)
        ]
        # msgpack sets aside 256 KiB for every answer otherwise
        header: bytes = msgpack.packb([entry.tag, *values], buf_size=MAX_HEADER)
        if len(header) > MAX_HEADER:
            raise ValueError(f"a header of {len(header)} bytes is above {MAX_HEADER}: {message!r}")
        return b"".join((header, body)) if body else header

    def decode(self, data: bytes | memoryview) -> tuple[Message, memoryview]:
        """One message and its body, which is a view of `data`. Raises only WireError."""
        raw, size = _unpack_array(data)
        if not raw or type(raw[0]) is not int:
            raise WireError(f"{_show(raw[0] if raw else None)} is not the number of a message")
        entry = self._by_tag.get(raw[0])
        if entry is None:
            raise UnknownMessage(f"there is no message {raw[0]}")
        values = [field.read(value) for field, value in zip(entry.fields, raw[1:], strict=False)]
        if len(values) < entry.required:
            raise WireError(f"{entry.kind.__name__} lacks fields: {_show(raw)}")
        if len(data) > size and not entry.body:
            raise WireError(f"{len(data) - size} bytes follow a {entry.kind.__name__}")
        return entry.kind(*values), memoryview(data)[size:]


def _unpack_array(data: bytes | memoryview) -> tuple[list[Any], int]:
    """The array at the head of `data`, and its size in bytes."""
    unpacker = msgpack.Unpacker(max_buffer_size=MAX_HEADER, max_map_len=0, max_ext_len=0)
    unpacker.feed(data[:MAX_HEADER])
    try:
        raw = unpacker.unpack()
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise WireError(f"not an array of ours: {error}") from None
    if type(raw) is not list:
        raise WireError(f"{_show(raw)} is not an array")
    return raw, unpacker.tell()


def _show(raw: Any) -> str:
    text = _BRIEF.repr(raw)
    return text if len(text) <= 60 else f"{text[:57]}..."
