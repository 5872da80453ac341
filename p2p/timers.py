"""Named deadlines."""

from __future__ import annotations

from collections.abc import Hashable
from heapq import heapify, heappop, heappush
from math import inf
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
SPARE = 64  # entries that are out of date and kept all the same; tidying up costs more


class Timers(Generic[Key]):
    """Deadlines by key; setting a key again moves its deadline.

    A heap with lazy deletion: a moved or cancelled entry stays until it is first, or until such
    entries are most of the heap. So the first one always counts, and asking for it costs nothing,
    which everybody does after every packet. Ties expire in the order in which they were set, so the
    outcome never depends on hashing.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Key]] = []
        self._current: dict[Key, tuple[float, int]] = {}
        self._count = 0

    def __contains__(self, key: Key) -> bool:
        return key in self._current

    def __len__(self) -> int:
        return len(self._current)

    def set(self, key: Key, at: float) -> None:
        """Let `key` expire at absolute time `at`."""
        self._count += 1
        self._current[key] = (at, self._count)
        heappush(self._heap, (at, self._count, key))
        if len(self._heap) > 2 * len(self._current) + SPARE:
            self._heap = [(at, count, key) for key, (at, count) in self._current.items()]
            heapify(self._heap)
        self._drop_stale()

    def cancel(self, key: Key) -> None:
        """Forget `key`; cancelling what is not set is fine."""
        if self._current.pop(key, None) is not None:
            self._drop_stale()

    def next(self) -> float:
        """The earliest deadline, or `inf`."""
        return self._heap[0][0] if self._heap else inf

    def pop_expired(self, now: float) -> list[Key]:
        """Remove and return every key due at `now`, earliest first."""
        expired: list[Key] = []
        while self._heap and self._heap[0][0] <= now:
            _, _, key = heappop(self._heap)
            del self._current[key]
            self._drop_stale()
            expired.append(key)
        return expired

    def _drop_stale(self) -> None:
        heap, current = self._heap, self._current
        while heap and current.get(heap[0][2], (inf, 0))[1] != heap[0][1]:
            heappop(heap)
