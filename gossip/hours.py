"""Hours of the day, by the clock on the wall: "22:00-06:00".

A range begins with its first minute and ends before its last one; it may go over midnight, and
"00:00-24:00" is the whole day. It is read off the clock as that stands. So where clocks are changed
an hour that comes twice counts twice, one that is skipped counts not at all, and a night is an hour
longer or shorter. Whoever wants neither has the machine's clock show UTC.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

DAY = 24 * 60  # minutes
_TEXT = re.compile(r"\s*(\d\d):(\d\d)\s*-\s*(\d\d):(\d\d)\s*")


@dataclass(frozen=True, slots=True)
class Hours:
    """One range, in minutes since midnight."""

    begin: int
    end: int

    @classmethod
    def parse(cls, text: str) -> Hours:
        """Read `HH:MM-HH:MM`. Raises ValueError."""
        found = _TEXT.fullmatch(text)
        if found is not None:
            hours = list(map(int, found.groups()))
            begin, end = 60 * hours[0] + hours[1], 60 * hours[2] + hours[3]
            if begin < DAY and end <= DAY and max(hours[1], hours[3]) < 60 and begin != end:
                return cls(begin, end)
        raise ValueError(
            f'{text!r} is no part of a day; write for example "22:00-06:00", or "00:00-24:00" for '
            "all of it"
        )

    def left(self, minute: int) -> int:
        """Minutes until it ends, at that minute of the day; 0 outside of it."""
        length = (self.end - self.begin) % DAY or DAY
        since = (minute - self.begin) % DAY
        return length - since if since < length else 0


def until(ranges: Iterable[Hours], now: datetime) -> datetime | None:
    """When the range ends that `now` is in, with those that follow without a gap; None outside.

    At most a day away, also where the ranges together cover all of it.
    """
    ranges, left = list(ranges), 0
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    minute = 60 * now.hour + now.minute
    while left < DAY and (
        more := max((it.left((minute + left) % DAY) for it in ranges), default=0)
    ):
        left += more
    return midnight + timedelta(minutes=minute + min(left, DAY)) if left else None
