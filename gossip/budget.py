"""How many bytes learning may take.

    "64 KiB/s"         of all links of a node together; saved up for BURST seconds at most
    "2 KiB/exchange"   of each half

A half that would take more keeps fewer coordinates, down to the least share that the control law
allows (`gossip.density`); an agent whose bytes are used up starts no exchange. It goes on answering
others, as briefly as it may, so a budget below what those answers take is exceeded; they start
their own by theirs.

In quiet hours nothing may be taken at all: an agent rests. That is a time of the machine's clock
here; when it is by the clock on the wall, says `gossip.hours`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import inf

BURST = 10.0  # seconds
UNITS = {"B": 1, "kB": 1000, "MB": 1000**2, "KiB": 1 << 10, "MiB": 1 << 20}
_TEXT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(B|kB|MB|KiB|MiB)\s*/\s*(s|exchange)\s*")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a budget comes to, in bytes."""

    per_second: float = inf
    per_exchange: float = inf

    @classmethod
    def parse(cls, text: str) -> Limits:
        """Read `NUMBER UNIT/s` or `NUMBER UNIT/exchange`; empty: no limit. Raises ValueError."""
        if not text.strip():
            return cls()
        found = _TEXT.fullmatch(text)
        if found is None or float(found[1]) == 0:
            raise ValueError(
                f'{text!r} is no budget; write for example "64 KiB/s" or "2 KiB/exchange", with '
                f"one of {', '.join(UNITS)}"
            )
        limit = float(found[1]) * UNITS[found[2]]
        return cls(per_second=limit) if found[3] == "s" else cls(per_exchange=limit)


class Budget:
    """What is left of a node's bytes."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._left = limits.per_second * BURST
        self._since = 0.0
        self.rest_ends = -inf

    def rest(self, until: float) -> None:
        """Allow nothing until then."""
        self.rest_ends = until

    def rests(self, now: float) -> bool:
        """Whether nothing is allowed at all."""
        return now < self.rest_ends

    def limit(self, limits: Limits, now: float) -> None:
        """Have other limits from now on; what was saved up stays, as far as they let it."""
        self._earn(now)
        before, self._limits = self._limits, limits
        saved = self._left if before.per_second < inf else inf
        self._left = inf if limits.per_second == inf else min(saved, limits.per_second * BURST)

    def allows(self, now: float) -> bool:
        """Whether an exchange may begin."""
        self._earn(now)
        return self._left > 0 and not self.rests(now)

    def half(self, now: float) -> float:
        """Bytes that one half may take: all links share what is left."""
        self._earn(now)
        return min(self._limits.per_exchange, max(self._left, 0.0) / 2)

    def spend(self, size: int) -> None:
        """Bytes were sent."""
        self._left -= size

    def _earn(self, now: float) -> None:
        rate = self._limits.per_second
        if rate < inf:
            self._left = min(self._left + (now - self._since) * rate, rate * BURST)
        self._since = now
