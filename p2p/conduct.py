"""How others behave towards us, and what follows from it.

A message that no honest peer sends is held against whoever has proven to have sent it. Twice within
an hour and the peer is graylisted: no links, its requests are refused, it is only told that we
live. Four times, and it is banned for an hour; the next ban is twice as long, up to a day, and each
day without one takes a doubling back.

Not every message that we cannot use is a fault. What arrives late or twice, names a link that is
gone, or comes from a newer version is ignored: honest peers send such things. Nor can anybody be
blamed who has not proven who he is, or others could blame him.

The scores are our own. Nobody is told of them, so nobody can be slandered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from p2p.buckets import Buckets
from p2p.events import PeerBanned, PeerGraylisted
from p2p.packet import Packet, Source
from p2p.peer import PeerId

REMEMBERED = 1024  # peers whose faults we remember; as many as the roster holds
MOST_DOUBLINGS = 16  # of a ban; by then it is at its longest
MOST_BANS = 4096  # of our own making; those of an operator are as many as he likes


@dataclass(frozen=True, slots=True, kw_only=True)
class ConductConfig:
    """What peers may do, and what happens if they do more."""

    memory: float = 3600.0
    """Seconds for which a fault counts. A guess, as are all of these; gossipsub's scores of invalid
    messages decay over about as long."""

    graylist_at: int = 2
    """Faults within that time after which a peer gets no link."""

    ban_at: int = 4
    """Faults within that time after which a peer is banned; at least `graylist_at`."""

    ban: float = 3600.0
    """Seconds of a first ban; doubles with each further one."""

    ban_most: float = 86400.0
    """Seconds; where that doubling ends."""

    ban_forgotten: float = 86400.0
    """Seconds without a ban after which the next one is half as long again."""

    rate: float = 50.0
    """Messages a second from one peer, or from one address where nobody proves who he is; payloads
    are not counted. Ten times what a full view causes while links are suspected."""

    burst: int = 200
    """Messages that may come at once: as many newcomers as one neighbour may announce to us."""

    def __post_init__(self) -> None:
        if not 1 <= self.graylist_at <= self.ban_at:
            raise ValueError(
                f"ban_at is at least graylist_at, and that at least 1, not {self.ban_at} and "
                f"{self.graylist_at}"
            )
        if not (self.rate > 0 and self.burst >= 1):
            raise ValueError(
                f"rate is above 0 and burst at least 1, not {self.rate} and {self.burst}"
            )


class Standing(Enum):
    """What a peer may do."""

    GOOD = "good"
    GRAYLISTED = "graylisted"
    BANNED = "banned"


@dataclass(frozen=True, slots=True)
class Ban:
    """Somebody is kept out."""

    until: float  # seconds, of the clock that `now` is of
    reason: str
    times: int = 0  # bans of our own making until now, this one included; 0: an operator's


class Conduct:
    """Faults, bans and token buckets; no I/O.

    Args:
        bans: from earlier, `bans` of the one that this one continues.
    """

    def __init__(
        self, config: ConductConfig | None = None, bans: Mapping[PeerId, Ban] | None = None
    ) -> None:
        self.bans: dict[PeerId, Ban] = dict(bans or {})  # the oldest first; some are over
        self.dropped = 0  # packets: there were too many, or they came from an outcast
        self._config = config or ConductConfig()
        self._faults: dict[PeerId, deque[float]] = {}  # when; the latest to err last
        self._tokens = Buckets[Source](self._config.rate, self._config.burst)

    def standing(self, peer: PeerId, now: float) -> Standing:
        """What this peer may do."""
        ban = self.bans.get(peer)
        if ban is not None and now < ban.until:
            return Standing.BANNED
        faults = self._recent(peer, now)
        return Standing.GRAYLISTED if faults >= self._config.graylist_at else Standing.GOOD

    def affords(self, packet: Packet, now: float) -> bool:
        """Whether whoever sent this may send a message now; counts those who may not."""
        # Where nobody proves who he is, all are on this machine: a host would not tell them apart.
        allowed = self._tokens.take(packet.source, now)
        self.dropped += not allowed
        return allowed

    def blame(self, peer: PeerId, reason: str, now: float) -> PeerGraylisted | PeerBanned | None:
        """Hold a fault against a peer; what follows from it, if it is news."""
        if self.standing(peer, now) is Standing.BANNED:
            return None
        count = self._recent(peer, now) + 1
        faults = self._faults.pop(peer, None) or deque(maxlen=self._config.ban_at)
        faults.append(now)
        self._faults[peer] = faults
        if len(self._faults) > REMEMBERED:
            del self._faults[next(iter(self._faults))]
        if count >= self._config.ban_at:
            return self._punish(peer, reason, now)
        return PeerGraylisted(peer, reason) if count == self._config.graylist_at else None

    def faults(self, now: float) -> dict[PeerId, int]:
        """How many faults count, of all who have any."""
        counted = {peer: self._recent(peer, now) for peer in self._faults}
        return {peer: count for peer, count in counted.items() if count}

    def ban(self, peer: PeerId, until: float, reason: str) -> None:
        """Keep somebody out, as an operator says."""
        self.bans.pop(peer, None)
        self.bans[peer] = Ban(until, reason)

    def lift(self, peer: PeerId) -> bool:
        """Let somebody in again, all faults forgotten; False if there was nothing to forget."""
        forgotten = [self.bans.pop(peer, None), self._faults.pop(peer, None)]
        return forgotten != [None, None]

    def _recent(self, peer: PeerId, now: float) -> int:
        return sum(now - at < self._config.memory for at in self._faults.get(peer, ()))

    def _punish(self, peer: PeerId, reason: str, now: float) -> PeerBanned:
        config = self._config
        last = self.bans.pop(peer, None)
        times = 1
        if last is not None:
            times += max(last.times - int((now - last.until) / config.ban_forgotten), 0)
        times = min(times, MOST_DOUBLINGS)
        seconds = min(config.ban * 2.0 ** (times - 1), config.ban_most)
        self._faults.pop(peer, None)
        self.bans[peer] = Ban(now + seconds, reason, times)
        ours = [peer for peer, ban in self.bans.items() if ban.times]
        if len(ours) > MOST_BANS:
            del self.bans[ours[0]]
        return PeerBanned(peer, seconds, reason)
