"""What a node says of those it knows, as `gossip peers --json` prints it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite

from p2p import Channel, Swarm
from p2p.link import Link
from p2p.record import prefix
from p2p.roster import Entry


def peers(swarm: Swarm, now: float) -> dict[str, object]:
    """The neighbours, oldest link first, and all records in the order of their peers' names."""
    entries = swarm.roster.entries
    known = {whose: str(entry.record.peer.id) for whose, entry in entries.items()}
    for peer in swarm.neighbours:
        known[prefix(peer)] = str(peer)
    ordered = sorted(entries.values(), key=lambda one: (one.record.name, one.record.peer.id))
    return {
        "id": str(swarm.me.id),
        "neighbours": [_neighbour(link) for link in swarm.neighbours.values()],
        "roster": [_known(entry, known, now) for entry in ordered],
        "metrics": everywhere([dict(entry.record.metrics) for entry in ordered]),
    }


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
