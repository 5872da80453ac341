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

    A heap with lazy deletion: a moved or cancelled entry stays until it surfaces, or until such
    entries are most of the heap. Ties expire in the order in which they were set, so the outcome
    never depends on hashing.
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

    def cancel(self, key: Key) -> None:
        """Forget `key`; cancelling what is not set is fine."""
        self._current.pop(key, None)

    def next(self) -> float:
        """The earliest deadline, or `inf`."""
        heap = self._heap
        while heap:
            at, count, key = heap[0]
            current = self._current.get(key)
            if current is not None and current[1] == count:
                return at
            heappop(heap)  # it was moved or cancelled
        return inf

    def pop_expired(self, now: float) -> list[Key]:
        """Remove and return every key due at `now`, earliest first."""
        expired: list[Key] = []
        if not self._heap or self._heap[0][0] > now:
            return expired
        while self.next() <= now:
            _, _, key = heappop(self._heap)
            del self._current[key]
            expired.append(key)
        return expired
