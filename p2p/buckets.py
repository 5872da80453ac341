"""Token buckets: how often somebody may do something."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Buckets(Generic[Key]):
    """A bucket for each key; it holds `burst` tokens and gains `rate` of them a second.

    Args:
        most: keys to remember; the one that was asked for longest ago is forgotten, and so full.
    """

    def __init__(self, rate: float, burst: float, most: int = 4096) -> None:
        self._rate = rate
        self._burst = burst
        self._most = most
        self._buckets: dict[Key, tuple[float, float]] = {}  # tokens at that time; oldest first

    def take(self, key: Key, now: float) -> bool:
        """Take a token from the bucket of this key; False if there is none."""
        tokens, since = self._buckets.pop(key, (self._burst, now))
        tokens = min(tokens + (now - since) * self._rate, self._burst)
        allowed = tokens >= 1
        self._buckets[key] = (tokens - allowed, now)
        if len(self._buckets) > self._most:
            del self._buckets[next(iter(self._buckets))]
        return allowed
