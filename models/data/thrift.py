"""Structs of Thrift's compact protocol, in which Parquet describes itself.

(Apache, "Thrift compact protocol encoding".) A struct becomes a dictionary by the numbers of its
fields, whose values are numbers, bytes, lists and structs. What is strange is refused, since who
reads it next might take it in another way.
"""

from __future__ import annotations

from typing import Any

from models.data.files import Cursor

NESTED = 16  # structs and lists within each other; Parquet has six


def struct(cursor: Cursor, depth: int = 0) -> dict[int, Any]:
    """The struct that begins here. Raises DataError."""
    if depth > NESTED:
        raise cursor.error("a struct is nested too deeply")
    found: dict[int, Any] = {}
    field = 0
    while head := cursor.take(1, "a field")[0]:
        kind, step = head & 15, head >> 4
        field = field + step if step else _signed(_varint(cursor))
        if field in found:
            raise cursor.error(f"a struct has field {field} twice")
        # A field that is true or false has its value in its type.
        found[field] = kind == 1 if kind in (1, 2) else _value(cursor, kind, depth)
    return found


def _value(cursor: Cursor, kind: int, depth: int) -> Any:
    match kind:
        case 1 | 2 | 3:  # in a list, one that is true or false is a byte
            return cursor.take(1, "a byte")[0]
        case 4 | 5 | 6:
            number = _signed(_varint(cursor))
            if not -(1 << (8 << kind - 3) - 1) <= number < 1 << (8 << kind - 3) - 1:
                raise cursor.error(f"{number} has more than {8 << kind - 3} bits")
            return number
        case 7:
            return cursor.take(8, "a number")
        case 8:
            return cursor.take(_varint(cursor), "a text")
        case 9 | 10:
            return _list(cursor, depth + 1)
        case 12:
            return struct(cursor, depth + 1)
        case _:  # Parquet has no maps
            raise cursor.error(f"a field is of type {kind}, which Parquet has not")


def _list(cursor: Cursor, depth: int) -> list[Any]:
    if depth > NESTED:
        raise cursor.error("a list is nested too deeply")
    head = cursor.take(1, "a list")[0]
    kind, size = head & 15, head >> 4
    if size == 15:
        size = _varint(cursor)
    if size > cursor.left:
        raise cursor.error(f"a list of {size} entries is longer than what is left")
    return [_value(cursor, kind, depth) for _ in range(size)]


def _varint(cursor: Cursor) -> int:
    found = 0
    for shift in range(0, 70, 7):
        byte = cursor.take(1, "a number")[0]
        found |= (byte & 127) << shift
        if byte < 128:
            return found
    raise cursor.error("a number has more than ten bytes")


def _signed(number: int) -> int:
    return (number >> 1) ^ -(number & 1)
