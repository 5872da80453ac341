from random import Random

import pytest
import torch

from gossip.codec import Patch
from gossip.density import Motion
from gossip.exchange import Exchange, ExchangeConfig, ExchangeUndone, LinkOpened
from gossip.merging import MEDIAN, PROGRESS, Guard
from gossip.vector import Layout
from p2p import Address, Peer, PeerId

SIZE = 24
LAYOUT = Layout(("w",), ((SIZE,),), ("float32",))
IDS = [PeerId(bytes([index]) * 32) for index in range(1, 7)]


def of_length(length: float) -> Patch:
    values = torch.zeros(SIZE)
    values[0] = length
    return Patch(SIZE, None, values)


def asked(guard: Guard, peer: int, length: float) -> float:
    return guard.merge(IDS[peer], of_length(length), of_length(length), torch.zeros(SIZE))


class Pair:
    """Two ends that nothing separates; the first is guarded."""

    def __init__(self, guard: Guard) -> None:
        self.x = [torch.zeros(SIZE, dtype=torch.float64), torch.ones(SIZE, dtype=torch.float64)]
        self.guard = guard
        self.starts = 0
        self.links: list[Exchange] = []
        self.connect()

    def connect(self) -> list[object]:
        kept = [link.receipt for link in self.links] or [None, None]
        peers = [Peer(IDS[end], Address(f"10.0.0.{end}", 7946)) for end in (0, 1)]
        self.starts += 1
        self.links = [
            Exchange(
                IDS[end],
                peers[1 - end],
                self.x[end],
                LAYOUT,
                ExchangeConfig(),
                Random(f"{end}/{self.starts}"),
                kept[end],
                guard=self.guard if end == 0 else None,
            )
            for end in (0, 1)
        ]
        for link in self.links:
            link.open(0, 0.0)
        return self.carry()

    def carry(self, deaf: int | None = None) -> list[object]:
        """Until nothing is left to say; the deaf end hears nothing."""
        events: list[object] = []
        while True:
            said = [link.poll_transmit() for link in self.links]
            if said == [None, None]:
                return events
            for end, payload in enumerate(said):
                if payload is not None and 1 - end != deaf:
                    events += self.links[1 - end].receive(memoryview(payload), 0, 0.0)

    def exchange(self) -> None:
        self.links[0].start(0.0)
        self.carry()


def cautious(progress: float) -> Guard:
    motion = Motion()
    motion.measure(progress**2)
    return Guard("clipped", motion)


def test_mean_takes_all_of_everything() -> None:
    motion = Motion()
    motion.measure(1.0)
    guard = Guard("mean", motion)
    assert asked(guard, 0, 1e30) == 1.0
    assert guard.clipped == 0


def test_our_own_progress_bounds_what_anybody_moves() -> None:
    guard = cautious(1.0)
    assert asked(guard, 0, PROGRESS) == 1.0
    assert asked(guard, 0, 1e30) == pytest.approx(PROGRESS / 1e30)
    assert guard.clipped == 1


def test_a_liar_among_several_links_is_measured_by_the_others() -> None:
    guard = Guard("clipped", Motion())
    for peer in range(4):
        assert asked(guard, peer, 1.0) == 1.0
    assert asked(guard, 4, 100.0) == pytest.approx(MEDIAN / 100)


def test_with_two_links_and_no_progress_there_is_nobody_to_measure_by() -> None:
    guard = Guard("clipped", Motion())
    assert [asked(guard, peer, length) for peer, length in ((0, 1.0), (1, 100.0))] == [1.0, 1.0]


def test_who_is_gone_is_measured_by_no_more() -> None:
    guard = Guard("clipped", Motion())
    for peer in range(3):
        asked(guard, peer, 1.0)
    guard.forget(IDS[0])
    guard.forget(IDS[1])
    assert asked(guard, 3, 100.0) == 1.0


def test_the_sum_is_kept_where_nothing_is_clipped() -> None:
    pair = Pair(cautious(100.0))
    total = pair.x[0] + pair.x[1]
    for _ in range(40):
        pair.exchange()
    assert pair.guard.clipped == 0
    assert torch.allclose(pair.x[0] + pair.x[1], total, rtol=0, atol=1e-9)
    assert float((pair.x[0] - pair.x[1]).abs().max()) < 0.5


def test_no_exchange_moves_x_by_more_than_the_radius_and_the_references_stay_equal() -> None:
    pair = Pair(cautious(0.1))
    for lie in (1e3, -1e6, 1e9):
        pair.x[1].fill_(lie)
        before = pair.x[0].clone()
        pair.exchange()
        moved = float((pair.x[0] - before).norm())
        assert 0 < moved <= PROGRESS * 0.1 * (1 + 1e-6)
        mine, theirs = (link.reference for link in pair.links)
        assert mine is not None
        assert theirs is not None
        assert torch.equal(mine, theirs)
    assert pair.guard.clipped == 3


def test_a_clipped_exchange_is_taken_back_exactly() -> None:
    pair = Pair(cautious(0.1))
    pair.exchange()
    before = pair.x[0].clone()
    pair.x[1] += 50.0
    pair.links[1].start(0.0)
    pair.carry(deaf=1)  # the first end completes it, the second never hears the answer
    receipt = pair.links[0].receipt
    assert receipt is not None
    assert receipt.scale < 0.1
    assert not torch.equal(pair.x[0], before)
    events = pair.connect()
    assert [type(event) for event in events].count(ExchangeUndone) == 1
    assert any(isinstance(event, LinkOpened) for event in events)
    assert torch.allclose(pair.x[0], before, rtol=0, atol=1e-12)


def test_a_doubted_neighbour_moves_us_less_and_the_reference_as_ever() -> None:
    pair = Pair(cautious(100.0))
    for peer in IDS[1:]:
        pair.guard.trust.judge(peer, 1.0, 1.0)
    for _ in range(20):
        pair.guard.trust.judge(IDS[1], 1.0, 0.1)
    pair.exchange()
    mine, theirs = (link.reference for link in pair.links)
    assert mine is not None
    assert theirs is not None
    assert torch.equal(mine, theirs)
    assert 0 < float(pair.x[0].norm()) < 1e-3, "it was 0"
    assert float(pair.x[1].norm()) < 0.9 * SIZE**0.5, "it was 1 everywhere"


# trimmed -----------------------------------------------------------------------------------------


def trimming() -> Guard:
    motion = Motion()
    motion.measure(1e6)
    return Guard("trimmed", motion)


def moved(guard: Guard, peer: int, *theirs: float) -> list[float]:
    """What half of a dense difference of theirs, and nothing of ours, makes of zeros."""
    x = torch.zeros(len(theirs))
    guard.merge(
        IDS[peer],
        Patch(len(theirs), None, torch.zeros_like(x)),
        Patch(len(theirs), None, 2 * torch.tensor(theirs)),
        x,
    )
    return x.tolist()


def test_in_each_coordinate_nobody_goes_beyond_all_others() -> None:
    guard = trimming()
    for peer in range(4):
        moved(guard, peer, 1.0, -1.0, float(peer))
    assert moved(guard, 4, 2.0, -2.0, 1.5) == [1.0, -1.0, 1.5]


def test_who_pulls_alone_pulls_nothing() -> None:
    guard = trimming()
    for peer in range(4):
        moved(guard, peer, -1.0)
    assert moved(guard, 4, 9.0) == [0.0]


def test_with_two_links_nothing_is_trimmed() -> None:
    guard = trimming()
    assert [moved(guard, peer, 9.0 * peer) for peer in (0, 1)] == [[0.0], [9.0]]


def test_the_moves_of_who_is_gone_count_no_more() -> None:
    guard = trimming()
    for peer in range(3):
        moved(guard, peer, 1.0)
    guard.forget(IDS[0])
    guard.forget(IDS[1])
    assert moved(guard, 3, 9.0) == [9.0]


def test_references_stay_equal_where_exchanges_are_trimmed_and_an_end_is_deaf() -> None:
    pair = Pair(trimming())
    for _ in range(3):
        pair.exchange()
    pair.links[1].start(0.0)
    pair.carry(deaf=1)
    before = pair.x[0].clone()
    pair.connect()
    assert torch.equal(pair.x[0], before), "what was trimmed is not taken back"
    pair.exchange()
    mine, theirs = (link.reference for link in pair.links)
    assert mine is not None
    assert theirs is not None
    assert torch.equal(mine, theirs)
