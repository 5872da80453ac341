"""Quiet hours: has an agent rest by the clock on the wall, which is not the machine's.

The machine's clock only goes on; the one on the wall may be set, and jumps where clocks are
changed. So the latter is looked at every few seconds, and what follows from it is compared with
what the agent was told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from gossip.agent import Agent
from gossip.hours import Hours, until

LOOK = 10.0  # seconds between two looks


class Quiet:
    """The quiet hours of one node.

    Args:
        wall: the local time.
    """

    def __init__(self, agent: Agent, wall: Callable[[], datetime]) -> None:
        self.until: datetime | None = None  # None: it is not quiet
        self._agent, self._wall = agent, wall
        self._ends = 0.0  # the same, by the machine's clock

    def look(self, hours: Sequence[str], now: float) -> None:
        """Have the agent rest, or not, from now on; transmit what it then has to say."""
        wall = self._wall()
        before, self.until = self.until, until(map(Hours.parse, hours), wall)
        ends = now if self.until is None else now + (self.until - wall).total_seconds()
        if self.until != before or (self.until and abs(ends - self._ends) > LOOK):
            self._ends = ends
            self._agent.rest(ends, now)

    @property
    def status(self) -> str | None:
        """Until when it is quiet: `2026-03-29T06:00`."""
        return None if self.until is None else self.until.isoformat(timespec="minutes")
