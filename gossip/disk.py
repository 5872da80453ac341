"""Whether what a node wants to keep gets to its disk.

A disk that is full stops no learning. That it is full is said once, and once that it is not any
more; in between the status tells it, as long as it lasts.
"""

from __future__ import annotations

import logging

log = logging.getLogger("gossip")


class Disk:
    """What became of the checkpoints of one node.

    Args:
        where: the state directory, in words.
    """

    def __init__(self, where: str) -> None:
        self.saved: float | None = None  # when the last one was complete
        self.trouble: str | None = None  # why there was none since
        self._where = where

    def wrote(self, now: float) -> None:
        """A checkpoint is complete."""
        self.saved = now
        if self.trouble is not None:
            self.trouble = None
            log.warning("checkpoints are written to %s again", self._where)

    def failed(self, error: OSError) -> None:
        """A checkpoint could not be written."""
        if self.trouble is None:
            log.error("no checkpoint written to %s: %s; learning goes on", self._where, error)
        self.trouble = error.strerror or str(error)

    def status(self, now: float) -> dict[str, object]:
        """Seconds since the last checkpoint of this life, and why there is none since."""
        ago = None if self.saved is None else round(now - self.saved, 3)
        return {"seconds_ago": ago, "trouble": self.trouble}
