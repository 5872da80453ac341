"""I/O: data with an owner: LEAF's JSON, and MovieLens' ratings.

    LEAF         {"users": [name, ...], "num_samples": [n, ...],
                  "user_data": {name: {"x": [...], "y": [...]}, ...}}
    MovieLens    u.data of 100K (tabs), ratings.dat of 1M (`::`), ratings.csv of 20M (a header)

(Caldas et al., "LEAF: A Benchmark for Federated Settings", 2018.)
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import Any

from models.data.files import DataError, opened, text

MOST_LINE = 1 << 12  # bytes
MOST = 1 << 28  # bytes of LEAF's JSON; a file of FEMNIST has 100 MB
MOST_CONTAINERS = 1 << 24  # lists and objects in it, which take 3 bytes there and 64 here
NESTED = 500  # of those within each other; Python's limit is 1,000
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
Samples = tuple[list[Any], list[Any]]
Rating = tuple[str, str, float]


def leaf(place: str | Path) -> dict[str, Samples]:
    """Inputs and targets of each user, in the order of the file. Raises DataError."""
    written = text(place, MOST)
    containers = written.count("[") + written.count("{")
    if containers > MOST_CONTAINERS:
        raise DataError(
            f"{place}: holds {containers} lists and objects; {MOST_CONTAINERS} are the limit"
        )
    try:
        found = json.loads(written)
    except RecursionError:
        raise DataError(
            f"{place}: at character {_too_deep(written)}: is nested too deeply"
        ) from None
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: at character {error.pos}: {error.msg}") from None
    if not isinstance(found, dict):
        raise DataError(f"{place}: is no file of LEAF: it holds no object")
    users, counts, data = (found.get(key) for key in ("users", "num_samples", "user_data"))
    if not (isinstance(users, list) and isinstance(counts, list) and isinstance(data, dict)):
        raise DataError(f"{place}: is no file of LEAF: users, num_samples or user_data is missing")
    if len(users) != len(counts):
        raise DataError(f"{place}: names {len(users)} users and counts of {len(counts)}")
    return {
        _name(user, place): _samples(data.get(user), user, count, place)
        for user, count in zip(users, counts, strict=True)
    }


def ratings(place: str | Path) -> Iterator[Rating]:
    """User, item and rating of one line after another. Raises DataError with the line."""
    with opened(place) as file:
        index = 0
        while line := file.readline(MOST_LINE):
            index += 1
            fields = _fields(line)
            if index == 1 and fields[:2] == ["userId", "movieId"]:
                continue
            try:
                user, item, rating = fields[:3]
                stars = float(rating)
                if not isfinite(stars):
                    raise ValueError
            except ValueError:
                raise DataError(
                    f"{place}: line {index}: is not user, item and rating between tabs, :: or "
                    f"commas: {line[:40]!r}"
                ) from None
            yield user, item, stars
        if not index:
            raise DataError(f"{place}: at byte 0: the file is empty")


def _too_deep(written: str) -> int:
    """Where JSON is nested deeper than can be read."""
    depth = 0
    for token in TOKEN.finditer(written):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if depth > NESTED:
            return token.start()
    return 0


def _fields(line: bytes) -> list[str]:
    text = line.decode("latin-1").strip()
    for separator in ("::", "\t", ","):
        if separator in text:
            return text.split(separator)
    return [text]


def _name(user: object, place: str | Path) -> str:
    if not isinstance(user, str):
        raise DataError(f"{place}: names a user {user!r}, which is no text")
    return user


def _samples(data: object, user: str, count: object, place: str | Path) -> Samples:
    inputs, targets = (data.get("x"), data.get("y")) if isinstance(data, dict) else (None, None)
    if not (isinstance(inputs, list) and isinstance(targets, list)):
        raise DataError(f"{place}: user {user!r} has no lists x and y")
    if not len(inputs) == len(targets) == count:
        raise DataError(
            f"{place}: user {user!r} has {len(inputs)} inputs, {len(targets)} targets and "
            f"num_samples {count!r}"
        )
    return inputs, targets
