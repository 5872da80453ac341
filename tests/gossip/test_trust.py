"""What a neighbour's loss on our samples says about it."""

from math import inf, nan

import pytest

from gossip.trust import KEPT, MOST, Trust
from p2p import PeerId

IDS = [PeerId(bytes([index]) * 32) for index in range(1, 6)]


def after(*losses: float, ours: float = 1.0, looks: int = 1) -> list[float]:
    """The trust in as many peers as there are losses."""
    trust = Trust()
    for _ in range(looks):
        for peer, loss in zip(IDS, losses, strict=False):
            trust.judge(peer, loss, ours)
    return [trust.of(peer) for peer, _ in zip(IDS, losses, strict=False)]


def test_strangers_are_trusted() -> None:
    assert Trust().of(IDS[0]) == 1


def test_a_loss_twice_the_usual_counts_for_a_sixteenth() -> None:
    assert after(1.2, 1.2, 1.2, 2.4) == pytest.approx([1, 1, 1, 1 / 16])


def test_a_lower_loss_than_usual_earns_no_more() -> None:
    assert after(1.0, 1.0, 0.1) == [1, 1, 1]


def test_a_minority_of_liars_costs_the_honest_nothing() -> None:
    assert after(1.0, 1.0, 1.0, 9e9, 9e9)[:3] == [1, 1, 1]


def test_the_only_neighbour_is_measured_by_ourselves() -> None:
    assert after(2.0) == pytest.approx([1 / 16])


@pytest.mark.parametrize("loss", [nan, inf, 1e300])
def test_a_model_of_no_loss_at_all_is_merely_bad(loss: float) -> None:
    trust = Trust()
    for _ in range(1000):
        trust.judge(IDS[0], loss, 1.0)
    assert trust.of(IDS[0]) < 1e-4
    for _ in range(10):
        trust.judge(IDS[0], 1.0, 1.0)
    assert trust.of(IDS[0]) > 0.5, f"an excess of {MOST} is forgotten"


@pytest.mark.parametrize("ours", [nan, inf])
@pytest.mark.parametrize("theirs", [5.0, nan, inf])
def test_of_our_own_failure_nothing_is_learned(theirs: float, ours: float) -> None:
    assert after(theirs, ours=ours) == [1]


def test_losses_below_zero_say_nothing() -> None:
    assert after(-1.0, -300.0, ours=-20.0) == [1, 1]


def test_one_bad_look_is_outweighed_by_good_ones() -> None:
    trust = Trust()
    trust.judge(IDS[0], 2.0, 1.0)
    for _ in range(20):
        trust.judge(IDS[0], 1.0, 1.0)
    assert trust.of(IDS[0]) > 0.99


def test_a_new_link_earns_no_new_trust() -> None:
    trust = Trust()
    trust.judge(IDS[0], 9.0, 1.0)
    before = trust.of(IDS[0])
    trust.forget(IDS[0])
    assert trust.of(IDS[0]) == before < 1
    trust.judge(IDS[0], 9.0, 1.0)
    assert trust.of(IDS[0]) == before


def test_only_the_newest_of_lost_peers_are_remembered() -> None:
    trust = Trust()
    peers = [PeerId(index.to_bytes(32)) for index in range(1, KEPT + 2)]
    for peer in peers:
        trust.judge(peer, 9.0, 1.0)
        trust.forget(peer)
    assert trust.of(peers[0]) == 1
    assert trust.of(peers[1]) < 1
