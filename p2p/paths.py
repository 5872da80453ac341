"""Which way a stream goes: by TCP, or in datagrams.

By TCP, unless we know better. In datagrams if it is short and the other end answers by UDP: no
connection needs to be made or kept. And in datagrams, however long, while TCP does not reach the
other end and UDP does.

UDP reaches whoever we have heard from by UDP. If we keep sending and nothing comes back, that is in
doubt, and short streams, among them the pings that are to find out whether it is UDP that fails, go
by TCP again. So they do for a while when a stream in datagrams was not acknowledged: what we hear
proves one direction only.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from p2p.peer import Address, PeerId

MOST = 2048  # peers and addresses; twice as many as have sessions with us
HEARD = 30.0  # seconds for which what was heard by UDP shows that UDP works. A guess: neighbours
# probe each other every second, and a NAT forgets a mapping after 30 s.
DOUBT = 0.2  # seconds of sending and hearing nothing; below the 0.25 s after which a ping is
# repeated as a stream (`p2p.liveness`), so that this one goes by TCP


@dataclass(slots=True)
class _Path:
    heard: float = -inf  # when something came by UDP
    unanswered: float = inf  # when we sent the first datagram since then
    stalled: float = -inf  # when a stream in datagrams was not acknowledged
    failed: float = -inf  # when TCP did


class Paths:
    """What is known of the ways to each peer, or address where nobody proves who he is; no I/O.

    Args:
        short: bytes of a stream that rather goes by UDP.
        again: seconds after which a way that has failed is tried again.
    """

    def __init__(self, short: int, again: float) -> None:
        self._short = short
        self._again = again
        self._paths: dict[PeerId | Address, _Path] = {}  # the longest unused first

    def heard(self, key: PeerId | Address, now: float) -> None:
        """Something came from there by UDP."""
        path = self._path(key)
        path.heard, path.unanswered = now, inf

    def sent(self, key: PeerId | Address, now: float) -> None:
        """Something went there by UDP."""
        path = self._paths.get(key)
        if path is not None and path.unanswered == inf:
            path.unanswered = now

    def stalled(self, key: PeerId | Address, now: float) -> None:
        """A stream in datagrams was not acknowledged."""
        self._path(key).stalled = now

    def failed(self, key: PeerId | Address, now: float) -> None:
        """TCP does not reach it."""
        self._path(key).failed = now

    def refuses(self, key: PeerId | Address, now: float) -> bool:
        """Whether TCP has failed just now."""
        path = self._paths.get(key)
        return path is not None and now < path.failed + self._again

    def answers(self, key: PeerId | Address, now: float) -> bool:
        """Whether UDP has reached it not long ago."""
        path = self._paths.get(key)
        return path is not None and now < path.heard + HEARD

    def by_datagrams(self, key: PeerId | Address, size: int, now: float) -> bool:
        """Whether a stream of so many bytes should go by UDP."""
        path = self._paths.get(key)
        if path is None or not self.answers(key, now):
            return False
        if self.refuses(key, now):
            return True
        doubted = now >= path.unanswered + DOUBT or now < path.stalled + self._again
        return size <= self._short and not doubted

    def _path(self, key: PeerId | Address) -> _Path:
        path = self._paths.pop(key, None) or _Path()
        self._paths[key] = path
        if len(self._paths) > MOST:
            del self._paths[next(iter(self._paths))]
        return path
