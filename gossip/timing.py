"""When to repeat what was not answered."""

from __future__ import annotations

from dataclasses import dataclass

from p2p import RoundTrip


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingConfig:
    """How patient a link is."""

    first: float = 0.5
    """Seconds until the first repetition before anything was measured; afterwards srtt + 4 var as
    in RFC 6298. A guess that suits loopback and WAN."""

    least: float = 0.1
    """Seconds; RFC 6298 asks for 1, which stalls a LAN."""

    most: float = 10.0
    """Seconds. A guess: a link worth keeping answers within it."""

    slowest: float = 1e6
    """Bytes a second granted to a payload before we call it lost. A guess."""


class Timing:
    """When to repeat: RFC 6298's estimate over whole exchanges, plus time for the bytes."""

    def __init__(self, config: TimingConfig) -> None:
        self._config = config
        self._round_trip = RoundTrip()
        self._factor = 1.0

    def back_off(self) -> None:
        """Wait twice as long, until something was measured (RFC 6298, section 5.7)."""
        self._factor *= 2.0

    def delay(self, size: int) -> float:
        """Seconds to wait for the answer to `size` bytes."""
        config, usual = self._config, self._round_trip
        seconds = usual.smoothed + 4 * usual.variation if usual.smoothed else config.first
        seconds = max(seconds, config.least)
        return min(seconds * self._factor, config.most) + size / config.slowest

    def measure(self, sample: float) -> None:
        """Learn how long an answer took since the copy that it answers was sent.

        Karn's rule, which ignores what was repeated, would leave a link slow after a few losses.
        """
        self._factor = 1.0
        self._round_trip.measure(sample)
