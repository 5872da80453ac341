"""What a node tells of the others."""

from __future__ import annotations

from math import nan

import pytest

from gossip.peers import NEW, STALE, everywhere, state
from p2p import Address, Peer, PeerId
from p2p.record import Record, prefix
from p2p.roster import Entry

PEERS = [
    Peer(PeerId(bytes([number]) * 32), Address("127.0.0.1", 1000 + number)) for number in range(6)
]


def entry(number: int, published: float, *neighbours: int, left: bool = False) -> Entry:
    named = tuple(prefix(PEERS[one].id) for one in neighbours)
    record = Record(PEERS[number], 1, "", 0, (), named, left)
    return Entry(record, b"", published, 1, 0)


def states(now: float, *entries: Entry) -> dict[int, str]:
    """As the first of `PEERS` sees them, who has no neighbours."""
    known = {prefix(one.record.peer.id): one for one in entries}
    return {PEERS.index(one.record.peer): state(one, known, {PEERS[0].id}, now) for one in entries}


def test_a_peer_is_missed_when_all_its_neighbours_have_lost_it_since() -> None:
    assert (
        states(20, entry(0, 10), entry(1, 5, 2, 3), entry(2, 10, 3), entry(3, 11, 2))[1] == "missed"
    )


@pytest.mark.parametrize(
    "others",
    [
        [entry(2, 10, 3), entry(3, 4, 2)],  # one of them has not published since
        [entry(2, 10, 3), entry(3, 11, 1)],  # one of them names it
        [],  # nobody is known who could miss it
    ],
)
def test_it_is_not_missed_as_long_as_one_may_still_be_linked_with_it(others: list[Entry]) -> None:
    assert states(20, entry(0, 10), entry(1, 5, 2, 3), *others)[1] == "up"


def test_a_newcomer_that_never_named_a_neighbour_is_missed_sooner() -> None:
    assert states(5 + NEW, entry(0, 10), entry(1, 5))[1] == "up"
    assert states(6 + NEW, entry(0, 10), entry(1, 5))[1] == "missed"


def test_who_has_said_goodbye_has_left_and_whose_record_is_old_is_missed() -> None:
    found = states(
        STALE + 11, entry(0, 10), entry(1, 10, left=True), entry(2, 10, 5), entry(3, 12, 5)
    )
    assert found == {0: "up", 1: "left", 2: "missed", 3: "up"}


def test_a_metric_of_the_network_is_the_mean_of_those_that_measure_it() -> None:
    found = [{"accuracy": 0.5, "loss": 2.0}, {"accuracy": 0.7, "loss": nan}, {}]
    assert everywhere(found) == {"accuracy": 0.6, "loss": 2.0}
    assert everywhere([]) == {}
