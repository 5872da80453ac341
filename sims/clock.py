"""A clock of one host in virtual time."""

from __future__ import annotations


class Clock:
    """Never goes back, but may be ahead of the others, and run fast or slow.

    What a process reads is the monotonic clock of its system, so the hour of the day does not
    matter here; what can happen is that it stands still or leaps while a laptop sleeps, and that
    it drifts.
    """

    __slots__ = ("_at", "_last", "_rate", "_since")

    def __init__(self) -> None:
        self._since, self._at, self._rate = 0.0, 0.0, 1.0  # it showed `at` at time `since`
        self._last = 0.0

    def read(self, now: float, *, at_least: float = 0.0) -> float:
        """What it shows at virtual time `now`; `at_least` what is known of that, since an alarm
        that rings is due whatever was rounded on the way."""
        self._last = max(self._last, at_least, self._at + (now - self._since) * self._rate)
        return self._last

    def when(self, reading: float) -> float:
        """The virtual time at which it shows that, if nobody changes it."""
        return self._since + (reading - self._at) / self._rate

    def change(self, now: float, jump: float, rate: float) -> None:
        """Put it forward by `jump` seconds; from now on a second takes it 1 / `rate`."""
        if not (jump >= 0 and rate > 0):
            raise ValueError(f"a clock goes forward only, not by {jump} s or at a rate of {rate}")
        self._at, self._since, self._rate = self.read(now) + jump, now, rate
