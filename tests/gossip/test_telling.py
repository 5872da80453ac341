"""Events in words and in JSON."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest

from gossip.agent import AgentEvent
from gossip.telling import as_json, describe, kind
from p2p import Address, PayloadReceived, Peer, PeerDown, PeerId, PeerUp

PEER = Peer(PeerId(bytes(32)), Address("10.0.0.5", 7946))
VALUES: dict[str, Any] = {
    "Peer": PEER,
    "PeerId": PEER.id,
    "Address": PEER.address,
    "str": "why",
    "int": 3,
    "float": 0.5,
}
KINDS = [each for each in get_args(AgentEvent) if each is not PayloadReceived]


@pytest.mark.parametrize("event", KINDS)
def test_every_event_that_a_node_tells_is_json(event: type) -> None:
    made = event(*(VALUES[str(each)] for each in event.__annotations__.values()))
    told = as_json(made)
    assert told["type"] == kind(made)
    assert set(told) == {"type", *event.__annotations__}
    assert json.loads(json.dumps(told)) == told


def test_people_read_who_and_why() -> None:
    assert describe(PeerUp(PEER)) == f"linked with {PEER.id.short} at 10.0.0.5:7946"
    assert describe(PeerDown(PEER, "it is silent")).endswith("it is silent")  # type: ignore[union-attr]
    assert kind(PeerDown(PEER, "")) == "peer_down"
