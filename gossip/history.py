"""How learning went, in bounded memory: the whole of it, ever more coarsely.

A node offers a moment whenever its model was measured. When there is no room left, every second one
is forgotten, and from then on only every second one that is offered is kept, then every fourth. So
after a day as after a minute there are between `MOST` / 2 and `MOST` of them, evenly spread, and
the latest is always there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

MOST = 512  # moments; as many as a wide chart has pixels for


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Where a node stood."""

    time: float  # Unix seconds
    rounds: int  # of training, since the start, as all that follows but the samples
    samples: int  # that the model has seen
    exchanges: int
    bytes_sent: int
    bytes_received: int
    bytes_dense: int  # what the halves that were sent would be in plain float32
    distance: float | None  # to the neighbours, as a share of the model's length; None: nobody
    metrics: Mapping[str, float | None]  # of the model, by name; None: not finite


class History:
    """A bounded series of moments."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._kept: list[Moment] = []
        self._latest: Moment | None = None
        self._every = 1  # of how many that are offered one is kept
        self._offered = 0

    def add(self, moment: Moment) -> None:
        """Offer a moment, later than all before."""
        self._latest = moment
        if self._offered % self._every == 0:
            self._kept.append(moment)
            if len(self._kept) >= self._most:
                del self._kept[1::2]
                self._every *= 2
        self._offered += 1

    @property
    def moments(self) -> list[Moment]:
        """From the first to the latest."""
        if self._latest is None or self._kept[-1] is self._latest:
            return list(self._kept)
        return [*self._kept, self._latest]

    def columns(self) -> dict[str, object]:
        """As JSON that a chart can draw: a list for each field, and for each metric."""
        moments = self.moments
        names = dict.fromkeys(name for moment in moments for name in moment.metrics)
        found: dict[str, object] = {
            entry.name: [getattr(moment, entry.name) for moment in moments]
            for entry in fields(Moment)
            if entry.name != "metrics"
        }
        found["metrics"] = {
            name: [moment.metrics.get(name) for moment in moments] for name in names
        }
        return found
