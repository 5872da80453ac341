"""How long a round trip takes."""

from __future__ import annotations


class RoundTrip:
    """Smoothed round-trip time and its variation, in seconds (RFC 6298, section 2)."""

    __slots__ = ("smoothed", "variation")

    def __init__(self) -> None:
        self.smoothed = 0.0  # 0 until something was measured
        self.variation = 0.0

    def measure(self, sample: float) -> None:
        """Take in one sample; only of what was sent once (Karn's rule)."""
        if not self.smoothed:
            self.smoothed, self.variation = sample, sample / 2
        else:
            self.variation += 0.25 * (abs(self.smoothed - sample) - self.variation)
            self.smoothed += 0.125 * (sample - self.smoothed)
