"""What a node says of those it knows, as `gossip peers --json` prints it."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from math import isfinite
from typing import Literal

from p2p import Channel, PeerId, Swarm
from p2p.link import Link
from p2p.record import prefix
from p2p.roster import Entry

STALE = 150.0  # seconds; who lives has published twice by then, in a network of less than 700
NEW = 45.0  # seconds; twice the longest pause between two records with news (`RosterConfig`)
State = Literal["up", "left", "missed"]


def peers(swarm: Swarm, now: float) -> dict[str, object]:
    """The neighbours, oldest link first, and all records in the order of their peers' names."""
    entries = swarm.roster.entries
    known = {whose: str(entry.record.peer.id) for whose, entry in entries.items()}
    for peer in swarm.neighbours:
        known[prefix(peer)] = str(peer)
    near = {swarm.me.id, *swarm.neighbours}
    ordered = sorted(entries.values(), key=lambda one: (one.record.name, one.record.peer.id))
    return {
        "id": str(swarm.me.id),
        "neighbours": [_neighbour(link) for link in swarm.neighbours.values()],
        "roster": [
            _known(entry, known, now) | {"state": state(entry, entries, near, now)}
            for entry in ordered
        ],
        "metrics": everywhere([dict(entry.record.metrics) for entry in ordered]),
    }


def state(
    entry: Entry, entries: Mapping[bytes, Entry], near: Container[PeerId], now: float
) -> State:
    """How the peer of a record is, as far as the others tell.

    `up`; `left`, if it has said goodbye; or `missed`: its record is old, or all neighbours that it
    names have published since and none of them names it. Who is `near` we know better. A record
    without neighbours is a newcomer's, who publishes again as soon as it may when it has some.
    """
    record = entry.record
    if record.left:
        return "left"
    if record.peer.id in near:
        return "up"
    if now - entry.published > (STALE if record.neighbours else max(NEW, len(entries) / 4)):
        return "missed"
    named = [entries[whose] for whose in record.neighbours if whose in entries]
    return "missed" if named and all(_has_lost(one, entry) for one in named) else "up"


def _has_lost(other: Entry, entry: Entry) -> bool:
    """Whether the other has published since, and is no neighbour any more."""
    names = not other.record.left and prefix(entry.record.peer.id) in other.record.neighbours
    return other.published > entry.published and not names


def everywhere(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What each peer measured on data of its own, as one estimate for the network: the mean.

    Peers weigh alike, since nobody says how many samples it tested with. What a peer does not
    measure, or what is no number with it, does not count.
    """
    values: dict[str, list[float]] = {}
    for metrics in found:
        for name, value in metrics.items():
            if isfinite(value):
                values.setdefault(name, []).append(value)
    return {name: sum(each) / len(each) for name, each in sorted(values.items())}


def _neighbour(link: Link) -> dict[str, object]:
    assert link.peer is not None
    return {
        "id": str(link.peer.id),
        "address": str(link.peer.address),
        "state": "up" if link.watch.suspected is None else "suspected",
        "path": "udp" if link.channel is Channel.DATAGRAM else "tcp",
        "rtt": round(link.round_trip.smoothed, 6),
        "loss": round(link.watch.loss, 4),
        "bytes_sent": link.sent,
        "bytes_received": link.received,
    }


def _known(entry: Entry, known: Mapping[bytes, str], now: float) -> dict[str, object]:
    record = entry.record
    return {
        "id": str(record.peer.id),
        "name": record.name,
        "address": str(record.peer.address),
        "samples": record.samples,
        # JSON has no NaN and no infinity.
        "metrics": {name: value if isfinite(value) else None for name, value in record.metrics},
        "links": len(record.neighbours),
        "neighbours": [known[whose] for whose in record.neighbours if whose in known],
        "left": record.left,
        "age_seconds": round(now - entry.published, 3),
    }
