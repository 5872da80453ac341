"""What happened, in words for people and in the types of JSON."""

from __future__ import annotations

import re
from dataclasses import fields

from gossip.agent import AgentEvent, ModelAdopted
from gossip.exchange import LinkReset, ModelMismatched
from p2p import Address, Peer, PeerBanned, PeerDown, PeerGraylisted, PeerId, PeerUp, SeedUnreachable

_INSIDE = re.compile(r"(?<=[a-z])(?=[A-Z])")


def describe(event: AgentEvent) -> str | None:
    """One line for people, or None for what happens all the time."""
    match event:
        case PeerUp(peer):
            return f"linked with {peer}"
        case PeerDown(peer, reason):
            return f"lost {peer}: {reason}"
        case SeedUnreachable(address, attempts):
            return f"no answer from {address} after {attempts} attempts; still trying"
        case PeerGraylisted(peer, reason):
            return f"no link with {peer.short} for now, it has erred twice: {reason}"
        case PeerBanned(peer, seconds, reason):
            return f"banned {peer.short} for {seconds / 3600:g} h: {reason}"
        case ModelMismatched(peer, difference):
            return f"not exchanging with {peer}, its model differs: {difference}"
        case LinkReset(peer, reason):
            return f"link with {peer} begins anew: {reason}"
        case ModelAdopted(peer, samples):
            return f"took over the model of {peer.short}, which has seen {samples:,} samples"
        case _:
            return None


def kind(event: AgentEvent) -> str:
    """The name of what happened: `peer_up`, `exchange_completed`."""
    return _INSIDE.sub("_", type(event).__name__).lower()


def as_json(event: AgentEvent) -> dict[str, object]:
    """An event by the names of its fields."""
    told: dict[str, object] = {"type": kind(event)}
    return told | {entry.name: _plain(getattr(event, entry.name)) for entry in fields(event)}


def _plain(value: object) -> object:
    match value:
        case Peer(peer_id, address):
            return {"id": str(peer_id), "address": str(address)}
        case PeerId() | Address():
            return str(value)
        case _:
            return value
