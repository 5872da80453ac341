"""Whether neighbours live: SWIM's rules on the links, with Lifeguard's local health.

A neighbour that has been quiet for half a second is *probed*: a ping; if no answer comes in time,
another one over TCP, while up to three other neighbours are asked to reach it. If that fails too,
it is *suspected*, and probed again and again until anything comes from it or its time is up. That
time begins long and shrinks with every witness, that is with every helper who lives and could not
reach it either. So who hears nothing at all, because it is this process that is stuck or cut off,
waits ten times as long as who is told by three others that the neighbour is gone.

**Local health** counts signs that we are the slow ones: failed probes, helpers that kept silent,
neighbours that suspected us, timers that fire late. It makes probes up to nine times as patient,
except those of a suspect, which look for witnesses.

Sources: SWIM (Das, Gupta, Motivala, DSN 2002); Lifeguard (Dadgar, Phillips, Currey, 2017) with the
constants of memberlist. Departures, because the views are small and suspicion is not spread: the
witnesses of a suspicion are the helpers of its probes; and a link is probed after silence, not by
the clock, since every packet shows life.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import log
from random import Random
from typing import Protocol

from p2p.link import Link
from p2p.messages import Check, Checked, Message, Ping, PingRequest, Pong, Vouch
from p2p.peer import Address, Peer
from p2p.timers import Timers

LATE = (
    0.5  # seconds after which a timer shows that this process was stuck; ten times asyncio's worst
)
MEASURE_EVERY = 5.0  # seconds; a busy link is never quiet enough for a probe. A guess.
MOST_CHECKS = 64  # for others, at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class LivenessConfig:
    """When a neighbour counts as gone. Times stretch with bad local health."""

    quiet: float = 0.4
    """Seconds of silence until a probe. Both ends probe, so a link carries about two pings a second
    at most, as with memberlist's interval of 1 s."""

    least_timeout: float = 0.25
    """Seconds to wait for an answer at least."""

    interval: float = 1.0
    """Seconds that a probe takes in all, help by others included; also the longest to wait for a
    direct answer. memberlist's probe interval on a LAN."""

    helpers: int = 3
    """Neighbours that are asked to probe as well; memberlist's indirect checks."""

    suspicion: float = 4.25
    """Seconds from a failed probe until a neighbour counts as gone, if enough others say so;
    memberlist's suspicion multiplier of 4, and room for a process that stalls for 5 s at a time."""

    doubt: float = 10.0
    """How many times longer it takes if nobody else says so: who hears nothing from anybody is more
    likely cut off than all others are dead. memberlist has 6, of a time that grows with the
    network; a process that stalls for 33 s needs more than that (`benchmarks/overlay.py stalls`)"""

    witnesses: int = 3
    """How many others are enough; as in Lifeguard."""

    worst_health: int = 8
    """Where local health stops to get worse; 0 turns it off. As in Lifeguard."""


class Say(Protocol):
    """Sends a message; `stream` insists on TCP."""

    def __call__(self, to: Peer | Address, message: Message, *, stream: bool = False) -> None: ...


@dataclass(slots=True)
class _Check:
    """A probe that we make for a neighbour."""

    asker: Link
    number: int


class Liveness:
    """Probes links. Messages and time in, links that are dead out."""

    def __init__(
        self,
        me: Peer,
        config: LivenessConfig,
        rng: Random,
        say: Say,
        links: Callable[[], Iterable[Link]],
    ) -> None:
        self.health = 0  # 0 is good
        self._me = me
        self._config = config
        self._rng = rng
        self._say = say
        self._links = links
        self._timers: Timers[int] = Timers()  # by a link's own token
        self._watched: dict[int, Link] = {}
        self._checks: dict[int, _Check] = {}  # by the number that we drew
        self._check_timers: Timers[int] = Timers()

    # commands ------------------------------------------------------------------------------------

    def watch(self, link: Link, now: float) -> None:
        """Begin with a link that is up: with a probe, which also measures its round trip."""
        self._watched[link.mine] = link
        link.watch.heard = now
        self._probe(link, now)

    def forget(self, link: Link) -> None:
        """A link is gone."""
        self._watched.pop(link.mine, None)
        self._timers.cancel(link.mine)

    def hear(self, link: Link, now: float) -> None:
        """Anything arrived on a link."""
        watch = link.watch
        watch.heard = now
        if watch.probe or watch.suspected is not None:
            watch.probe, watch.suspected = 0, None
            watch.witnesses.clear()
            self._timers.set(link.mine, now + self._quiet())

    # timers --------------------------------------------------------------------------------------

    def next_timeout(self) -> float:
        """When `handle_timeout` wants to be called."""
        return min(self._timers.next(), self._check_timers.next())

    def handle_timeout(self, now: float) -> list[Link]:
        """Probe, ask, suspect; returns the links whose time is up."""
        late = now - self.next_timeout()
        if late > LATE:
            self._woke_late(now, late)
        for number in self._check_timers.pop_expired(now):
            check = self._checks.pop(number)
            self._say(check.asker.to, Vouch(check.asker.theirs, check.number, False))
        dead = []
        for token in self._timers.pop_expired(now):
            link = self._watched[token]
            if link.watch.suspected is not None and now >= self._end(link):
                dead.append(link)
            else:
                self._go_on(link, now)
        return dead

    def _woke_late(self, now: float, late: float) -> None:
        """This process was stuck: what has arrived meanwhile must be read before anybody dies."""
        self._worsen(1)
        for link in self._watched.values():
            if link.watch.suspected is not None:
                link.watch.suspected += late
            if link.watch.probe:
                self._probe(link, now)

    def _go_on(self, link: Link, now: float) -> None:
        watch = link.watch
        if not watch.probe:
            wait = watch.heard + self._quiet() - now
            if wait > 0 and watch.suspected is None:
                if now >= watch.ping[1] + MEASURE_EVERY:
                    self._ping(link, now)
                self._timers.set(link.mine, now + wait)
            else:
                self._probe(link, now)
        elif not watch.asked:
            self._ask_others(link, now)
        else:
            self._failed(link, now)

    def _probe(self, link: Link, now: float) -> None:
        watch = link.watch
        self._ping(link, now)
        watch.probe, watch.started, watch.asked = watch.ping[0], now, False
        config, trip = self._config, link.round_trip
        timeout = 3 * trip.smoothed + 4 * trip.variation if trip.smoothed else config.interval / 2
        timeout = min(max(timeout, config.least_timeout), config.interval)
        self._set(link, now + timeout * self._patience(link))

    def _ping(self, link: Link, now: float) -> None:
        watch = link.watch
        watch.ping = self._rng.randrange(1, 2**32), now
        watch.pings += 1
        self._say(link.to, Ping(link.theirs, watch.ping[0], watch.suspected is not None))

    def _ask_others(self, link: Link, now: float) -> None:
        watch, config = link.watch, self._config
        assert link.peer is not None
        watch.ping = (0, watch.started)  # which of the two is answered will be hard to tell
        self._say(link.to, Ping(link.theirs, watch.probe, watch.suspected is not None), stream=True)
        others = [
            other for other in self._links() if other is not link and other.watch.suspected is None
        ]
        # those first who have not been witnesses yet
        others = self._rng.sample(others, len(others))
        others.sort(key=lambda other: other.peer is not None and other.peer.id in watch.witnesses)
        helpers = others[: config.helpers]
        for helper in helpers:
            self._say(helper.to, PingRequest(helper.theirs, watch.probe, link.peer))
        watch.asked, watch.silent_helpers = True, len(helpers)
        patience = config.interval * self._patience(link)
        end = max(watch.started + patience, now + self._check_time * 1.5)
        self._set(link, end)

    def _failed(self, link: Link, now: float) -> None:
        """Nobody has reached it in time."""
        watch = link.watch
        self._worsen(watch.silent_helpers or (0 if watch.witnesses else 1))
        if watch.suspected is None:
            watch.suspected = min(now, watch.started + self._config.interval)
        self._probe(link, now)

    def _set(self, link: Link, at: float) -> None:
        link.watch.due = at
        self._arm(link, 0.0)

    def _arm(self, link: Link, now: float) -> None:
        watch = link.watch
        due = watch.due if watch.suspected is None else min(watch.due, self._end(link))
        self._timers.set(link.mine, max(due, now))

    def _end(self, link: Link) -> float:
        """When a suspected link's time is up (Lifeguard, section IV.B)."""
        config, watch = self._config, link.watch
        assert watch.suspected is not None
        enough = min(config.witnesses, sum(1 for other in self._links() if other is not link))
        least, most = config.suspicion, config.suspicion * config.doubt
        share = log(len(watch.witnesses) + 1) / log(enough + 1) if enough else 1.0
        return watch.suspected + max(least, most - (most - least) * share)

    def _quiet(self) -> float:
        # not stretched: with bad health a crash would be noticed seconds later, to nobody's good
        return self._config.quiet * self._rng.uniform(1.0, 1.2)

    # health --------------------------------------------------------------------------------------

    @property
    def _stretch(self) -> float:
        return 1.0 + self.health

    def _patience(self, link: Link) -> float:
        """How many times as long as usual a probe may take. One of a suspect is not stretched: it
        hurries to find witnesses, and only they can shorten its time."""
        return self._stretch if link.watch.suspected is None else 1.0

    def _worsen(self, by: int) -> None:
        self.health = min(self.health + by, self._config.worst_health)

    def _improve(self) -> None:
        self.health = max(self.health - 1, 0)

    # messages ------------------------------------------------------------------------------------

    def on_ping(self, link: Link, ping: Ping, *, stream: bool) -> None:
        """Answer, the way that it came."""
        if ping.suspected:
            self._worsen(1)  # somebody had reason to think that we are gone
        self._say(link.to, Pong(link.theirs, ping.number), stream=stream)

    def on_pong(self, link: Link, pong: Pong, now: float) -> None:
        """Measure, if this answers the last ping; call before `hear`."""
        watch = link.watch
        number, sent = watch.ping
        if number and pong.number == number:
            link.round_trip.measure(now - sent)
            watch.ping = (0, sent)
            watch.pongs += 1
            self._improve()
        elif watch.probe and pong.number == watch.probe:
            self._improve()

    def on_ping_request(self, link: Link, request: PingRequest, now: float) -> None:
        """A neighbour asks us to probe somebody."""
        if len(self._checks) >= MOST_CHECKS:
            return
        number = self._rng.randrange(1, 2**32)
        self._checks[number] = _Check(link, request.number)
        self._check_timers.set(number, now + self._check_time)
        self._say(request.target, Check(number, request.target.id, self._me))

    @property
    def _check_time(self) -> float:
        return self._config.interval / 2

    def on_checked(self, message: Checked) -> None:
        """Somebody whom we probed for a neighbour has answered."""
        check = self._checks.pop(message.number, None)
        if check is not None:
            self._check_timers.cancel(message.number)
            self._say(check.asker.to, Vouch(check.asker.theirs, check.number, True))

    def on_vouch(self, helper: Link, vouch: Vouch, now: float) -> None:
        """A helper says how its probe went."""
        for link in self._watched.values():
            watch = link.watch
            if watch.probe == vouch.number and watch.asked and helper is not link:
                assert helper.peer is not None
                watch.silent_helpers = max(watch.silent_helpers - 1, 0)
                if vouch.alive:
                    self.hear(link, now)
                else:
                    watch.witnesses[helper.peer.id] = None
                    self._arm(link, now)
                return
