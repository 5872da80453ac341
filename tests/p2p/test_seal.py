"""Sealed datagrams, and the table of the sessions that they belong to."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.packet import MAX_DATAGRAM
from p2p.peer import Address, PeerId
from p2p.seal import HALF_SIZE, OVERHEAD, SEALED, WINDOW, Half, Session, Window, index_of
from p2p.sessions import Destination, SessionConfig, Sessions

ANN, BOB, EVE = (PeerId(bytes([letter]) * 32) for letter in b"abe")
AT_ANN, AT_BOB, ELSEWHERE = (Address(f"10.0.0.{number}", 7946) for number in (1, 2, 3))
CONFIG = SessionConfig()


def pair(seed: int = 1) -> tuple[Session, Session]:
    """Both ends of a session: of Ann, who asked for it, and of Bob."""
    rng = Random(seed)
    asked, answered = Half(1, rng.randbytes(32)), Half(2, rng.randbytes(32))
    return (
        Session(ANN, asked, BOB, answered, initiated=True),
        Session(BOB, answered, ANN, asked, initiated=False),
    )


# one session --------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=MAX_DATAGRAM)), max_size=5))
def test_open_inverts_seal_in_both_directions(sent: list[tuple[bool, bytes]]) -> None:
    ann, bob = pair()
    for forth, data in sent:
        source, target = (ann, bob) if forth else (bob, ann)
        datagram = source.seal(data)
        assert len(datagram) == len(data) + OVERHEAD
        assert index_of(datagram) == target.index
        opened = target.open(datagram)
        assert opened is not None
        assert opened == (data, True)


def test_a_sealed_datagram_fits_the_smallest_ipv6_packet() -> None:
    assert MAX_DATAGRAM + OVERHEAD <= 1280 - 40 - 8


def test_every_bit_that_is_flipped_is_noticed() -> None:
    ann, bob = pair()
    datagram = ann.seal(b"the truth and nothing else")
    for bit in range(8 * len(datagram)):
        flipped = bytearray(datagram)
        flipped[bit // 8] ^= 1 << bit % 8
        # The type and the index say whom to give it to; whoever opens it checks them too.
        assert bob.open(bytes(flipped)) is None
    assert bob.open(datagram) is not None


def test_neither_less_nor_more_than_was_sealed_opens() -> None:
    ann, bob = pair()
    datagram = ann.seal(b"truth")
    for size in range(OVERHEAD, len(datagram)):
        assert bob.open(datagram[:size]) is None
    assert bob.open(datagram + b"\0") is None
    assert bob.open(datagram) is not None


def test_what_one_sent_does_not_come_back_to_it() -> None:
    ann, _ = pair()
    assert ann.open(ann.seal(b"mirror")) is None


def test_no_two_sessions_share_a_key() -> None:
    ann, bob = pair(1)
    datagram = ann.seal(b"x")
    secrets = [Random(1).randbytes(32), Random(2).randbytes(32)]
    ours, theirs = Half(2, secrets[1]), Half(1, secrets[0])
    for other in (
        pair(2)[1],
        Session(EVE, ours, ANN, theirs, initiated=False),
        Session(BOB, ours, EVE, theirs, initiated=False),
        Session(BOB, ours, ANN, theirs, initiated=True),
        Session(BOB, Half(3, secrets[1]), ANN, theirs, initiated=False),
        Session(BOB, theirs, ANN, ours, initiated=False),
    ):
        assert other.open(datagram) is None
    assert bob.open(datagram) is not None


def test_the_same_data_never_looks_the_same() -> None:
    ann, bob = pair()
    datagrams = {session.seal(b"x")[-17:] for session in (ann, bob) for _ in range(100)}
    assert len(datagrams) == 200


@given(st.binary(max_size=100))
def test_only_what_looks_like_a_sealed_datagram_has_an_index(data: bytes) -> None:
    for datagram in (data, bytes([SEALED]) + data):
        sealed = len(datagram) >= OVERHEAD and datagram[0] == SEALED
        assert (index_of(datagram) is not None) == sealed


@given(st.integers(0, 2**32 - 1), st.binary(min_size=32, max_size=32))
def test_decode_inverts_encode(index: int, secret: bytes) -> None:
    half = Half(index, secret)
    assert len(half.encode()) == HALF_SIZE
    assert Half.decode(half.encode()) == half
    for bad in (half.encode()[:-1], half.encode() + b"\0"):
        with pytest.raises(ValueError, match="half of a session is 36 bytes"):
            Half.decode(bad)


def test_no_secret_is_shown() -> None:
    half = Half(7, b"ssssssssssssssssssssssssssssssss")
    assert repr(half) == "Half(index=7)"
    assert repr(pair()[0]) == f"Session(1, {BOB.short})"


# the window ---------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3 * WINDOW), max_size=60))
@settings(max_examples=200)
def test_a_counter_is_admitted_once_and_only_near_the_highest(counters: list[int]) -> None:
    window, seen = Window(), set[int]()
    for counter in counters:
        admitted = counter not in seen and counter > max(seen, default=-1) - WINDOW
        assert window.admits(counter) == admitted
        if admitted:
            newest = counter > max(seen, default=-1)
            seen.add(counter)
            assert window.mark(counter) == newest


@pytest.mark.parametrize(("behind", "opens"), [(0, False), (1, True), (8191, True), (8192, False)])
@pytest.mark.parametrize("step", [1, 8192, 8193])
def test_a_datagram_is_late_but_opens_up_to_8191_behind(
    behind: int, opens: bool, step: int
) -> None:
    ann, bob = pair()
    late: dict[int, bytes] = {}
    for counter in range(8194):
        late[counter] = ann.seal(b"")
    highest = 8193
    for counter in {highest % step, highest}:  # in leaps of all sizes
        assert bob.open(late.pop(counter)) is not None
    datagram = late.get(highest - behind, ann.seal(b"") if behind < 0 else b"")
    if behind == 0:
        return
    opened = bob.open(datagram) if datagram else None
    assert (opened is not None) == opens
    if opened is not None:
        assert not opened.newest
        assert bob.open(datagram) is None


def test_a_leap_beyond_the_window_forgets_no_replay() -> None:
    for leap in (WINDOW - 1, WINDOW, WINDOW + 1, 2**40):
        window = Window()
        for counter in (0, leap):
            assert window.admits(counter)
            assert window.mark(counter)
            assert not window.admits(counter)
        assert not window.admits(0)
        assert window.admits(leap - WINDOW + 1) == (leap != WINDOW - 1)
        assert not window.admits(leap - WINDOW)


# the table ----------------------------------------------------------------------------------------


class End:
    """One node's table, with a clock that stands still unless it is moved."""

    def __init__(self, me: PeerId, at: Address, config: SessionConfig = CONFIG) -> None:
        self.me, self.at = me, at
        self._rng = Random(me)
        self.table = Sessions(me, config, self._rng.randbytes)

    def ask(self, other: End, now: float, *, lost: bool = False) -> None:
        """Make a session; the answer may be lost."""
        ours = self.table.ask()
        theirs = other.table.answer(self.me, ours, now)
        if not lost:
            self.table.answered(ours, other.me, theirs, other.at, now)

    def seal(self, other: End, now: float, data: bytes = b"x") -> bytes | None:
        sealed = self.table.seal(Destination(other.at, other.me), data, now)
        return None if sealed is None else sealed.data

    def dials(self, other: End, now: float) -> Destination | None:
        sealed = self.table.seal(Destination(other.at, other.me), b"x", now)
        assert sealed is not None
        return sealed.dial

    def hear(self, datagram: bytes | None, now: float, source: Address) -> bool:
        return datagram is not None and self.table.open(datagram, source, now) is not None


def ends(config: SessionConfig = CONFIG) -> tuple[End, End]:
    return End(ANN, AT_ANN, config), End(BOB, AT_BOB, config)


def talk(first: End, second: End, now: float) -> bool:
    """Whether a datagram arrives in each direction."""
    there = second.hear(first.seal(second, now), now, first.at)
    return there and first.hear(second.seal(first, now), now, second.at)


def test_a_session_carries_datagrams_both_ways_and_says_whose_they_are() -> None:
    ann, bob = ends()
    assert ann.seal(bob, 0.0) is None
    ann.ask(bob, 0.0)
    datagram = ann.seal(bob, 0.0, b"hello")
    assert datagram is not None
    assert bob.table.open(datagram, AT_ANN, 0.0) == (ANN, b"hello")
    assert talk(bob, ann, 0.0)
    assert len(ann.table) == len(bob.table) == 1


def test_the_end_that_was_asked_waits_for_proof_that_its_answer_arrived() -> None:
    ann, bob = ends()
    ann.ask(bob, 0.0, lost=True)
    assert bob.seal(ann, 0.0) is None
    ann.ask(bob, 1.0)
    assert bob.seal(ann, 1.0) is None
    assert talk(ann, bob, 1.0)


@pytest.mark.parametrize("order", ["ann first", "bob first", "each its own", "each the other's"])
def test_sessions_that_cross_both_work(order: str) -> None:
    ann, bob = ends()
    by_ann, by_bob = ann.table.ask(), bob.table.ask()

    def at_bob() -> None:
        nonlocal from_bob
        from_bob = bob.table.answer(ANN, by_ann, 0.0)

    def at_ann() -> None:
        nonlocal from_ann
        from_ann = ann.table.answer(BOB, by_bob, 0.0)

    from_ann = from_bob = Half(0, bytes(32))
    at_bob()
    if order in ("ann first", "each its own"):
        ann.table.answered(by_ann, BOB, from_bob, AT_BOB, 0.0)
        at_ann()
    else:
        at_ann()
        ann.table.answered(by_ann, BOB, from_bob, AT_BOB, 0.0)
    bob.table.answered(by_bob, ANN, from_ann, AT_ANN, 0.0)
    for now in range(100):
        there, back = ann.seal(bob, now), bob.seal(ann, now)  # crossing all the time
        assert bob.hear(there, now, AT_ANN)
        assert ann.hear(back, now, AT_BOB)


@given(st.lists(st.sampled_from("aAbBxyXY."), max_size=80), st.integers(0, 1000))
@settings(max_examples=300)
def test_whatever_is_asked_lost_and_delayed_both_ends_understand_each_other(
    steps: list[str], seed: int
) -> None:
    """Whatever happened before, a session that either end asks for makes both talk again."""
    ann, bob = ends()
    now, held, rng = 0.0, list[tuple[End, bytes, Address]](), Random(seed)
    for step in steps:
        source, target = (ann, bob) if step in "aAx X" else (bob, ann)
        match step.lower():
            case "a" | "b":
                source.ask(target, now, lost=step.isupper())
            case "x" | "y":
                datagram = source.seal(target, now)
                if datagram is not None and step.islower():
                    held.append((target, datagram, source.at))
            case _:
                now += rng.choice([0.01, 1.0, 30.0, 130.0])
        if held and rng.random() < 0.5:
            late, datagram, at = held.pop(rng.randrange(len(held)))
            late.hear(datagram, now, at)
    first, second = rng.sample([ann, bob], 2)
    first.ask(second, now)
    assert talk(first, second, now)
    assert talk(first, second, now)


def test_a_recorded_session_is_of_no_use_after_a_restart() -> None:
    ann, bob = ends()
    ann.ask(bob, 0.0)
    recorded = [ann.seal(bob, 0.0) for _ in range(3)]
    bob = End(BOB, AT_BOB)
    bob._rng = Random(99)
    bob.table = Sessions(BOB, CONFIG, bob._rng.randbytes)
    assert not any(bob.hear(datagram, 1.0, AT_ANN) for datagram in recorded)
    ann.ask(bob, 1.0)
    assert not any(bob.hear(datagram, 1.0, AT_ANN) for datagram in recorded)
    assert talk(ann, bob, 1.0)


def test_a_restart_that_draws_the_same_index_still_opens_nothing_old() -> None:
    ann, bob = ends()
    ann.ask(bob, 0.0)
    recorded = ann.seal(bob, 0.0)
    assert recorded is not None
    index = index_of(recorded)
    assert index is not None
    draws = iter([index.to_bytes(4, "big"), bytes([5]) * 32])
    bob.table = Sessions(BOB, CONFIG, lambda size: next(draws))
    ann.ask(bob, 1.0)
    again = ann.seal(bob, 1.0)
    assert again is not None
    assert index_of(again) == index
    assert not bob.hear(recorded, 1.0, AT_ANN)
    assert bob.hear(again, 1.0, AT_ANN)


# when another one is made -------------------------------------------------------------------------


def test_a_session_is_renewed_by_time_by_the_end_that_asked_for_it() -> None:
    ann, bob = ends()
    ann.ask(bob, 0.0)
    for now in (0.0, 119.9):
        assert talk(ann, bob, now)
        assert ann.dials(bob, now) is None
        assert talk(ann, bob, now)
    assert ann.dials(bob, 120.0) == Destination(AT_BOB, BOB)
    for now in (120.0, 149.9):
        assert bob.hear(ann.seal(bob, now), now, AT_ANN)
        assert bob.dials(ann, now) is None
    assert bob.hear(ann.seal(bob, 150.0), 150.0, AT_ANN)
    assert bob.dials(ann, 150.0) == Destination(AT_ANN, ANN)  # Ann seems not to manage


def test_a_session_is_renewed_by_count() -> None:
    ann, bob = ends(SessionConfig(renew_after_count=5))
    ann.ask(bob, 0.0)
    dialled = []
    for _ in range(7):
        dialled.append(ann.dials(bob, 0.0) is not None)
        assert talk(ann, bob, 0.0) or True
    assert dialled == [False, False, False, True, True, True, True]


def test_the_old_session_goes_on_working_while_it_is_renewed_and_afterwards() -> None:
    ann, bob = ends()
    ann.ask(bob, 0.0)
    assert talk(ann, bob, 0.0)
    late = [bob.seal(ann, 119.0), ann.seal(bob, 119.0)]
    ann.ask(bob, 120.0)
    assert ann.hear(bob.seal(ann, 125.0), 125.0, AT_BOB)  # Bob has not heard on the new one yet
    assert talk(ann, bob, 125.0)
    assert ann.hear(late[0], 130.0, AT_BOB)
    assert bob.hear(late[1], 130.0, AT_ANN)
    assert len(ann.table) == 2


def test_a_session_ends_for_the_sender_before_it_ends_for_the_receiver() -> None:
    ann, bob = ends()
    ann.ask(bob, 0.0)
    last = ann.seal(bob, 329.9)
    assert last is not None
    assert ann.seal(bob, 330.0) is None
    assert bob.hear(last, 359.9, AT_ANN)
    later, _ = ends()
    later.ask(bob, 0.0)
    last = later.seal(bob, 329.9)
    assert not bob.hear(last, 360.0, AT_ANN)


def test_a_peer_that_is_silent_while_we_send_is_asked_again_less_and_less_often() -> None:
    ann, bob = ends()
    ann.ask(bob, 0.0)
    asked, now = [], 0.0
    while now < 300.0:
        if ann.dials(bob, now) is not None and now < 120.0:
            asked.append(now)
            ours = ann.table.ask()
            ann.table.answered(ours, BOB, Half(5, bytes(32)), AT_BOB, now)
        now += 0.5
    pauses = [later - earlier for earlier, later in pairwise(asked)]
    assert asked[0] == 2.0
    assert pauses == sorted(pauses)
    assert len(asked) <= 6


def test_a_peer_that_answers_is_not_suspected() -> None:
    ann, bob = ends()
    ann.ask(bob, 0.0)
    for now in range(118):
        assert ann.dials(bob, now) is None
        assert bob.hear(ann.seal(bob, now), now, AT_ANN)
        assert ann.hear(bob.seal(ann, now), now, AT_BOB)
    assert ann.dials(bob, 119.0) is None  # silence alone is no reason, we have to have sent


def test_a_pause_in_which_nobody_sends_is_no_silence() -> None:
    ann, bob = ends()
    ann.ask(bob, 0.0)
    assert talk(ann, bob, 0.0)
    assert ann.dials(bob, 100.0) is None
    assert ann.dials(bob, 101.9) is None
    assert ann.dials(bob, 102.0) == Destination(AT_BOB, BOB)


# where a peer is ----------------------------------------------------------------------------------


def where(end: End, other: End, now: float = 0.0) -> Address:
    sealed = end.table.seal(Destination(other.at, other.me), b"x", now)
    assert sealed is not None
    return sealed.to


def test_a_peer_that_moves_is_followed_by_its_newest_datagram_only() -> None:
    ann, bob = ends()
    ann.ask(bob, 0.0)
    assert talk(ann, bob, 0.0)
    held, newest = ann.seal(bob, 0.0), ann.seal(bob, 0.0)
    assert newest is not None
    assert bob.hear(newest, 0.0, ELSEWHERE)
    assert where(bob, ann) == ELSEWHERE
    assert bob.hear(held, 0.0, Address("10.6.6.6", 6))  # somebody kept it back
    assert not bob.hear(newest, 0.0, Address("10.6.6.6", 6))
    forged = newest[:-1] + bytes([newest[-1] ^ 1])
    assert not bob.hear(forged, 0.0, Address("10.6.6.6", 6))
    assert where(bob, ann) == ELSEWHERE


def test_a_datagram_of_an_older_session_moves_nobody() -> None:
    ann, bob = ends()
    ann.ask(bob, 0.0)
    assert talk(ann, bob, 0.0)
    held = ann.seal(bob, 0.0)
    ann.ask(bob, 120.0)
    assert talk(ann, bob, 120.0)
    assert bob.hear(held, 121.0, Address("10.6.6.6", 6))
    assert where(bob, ann, 121.0) == AT_ANN


def test_a_peer_that_moved_is_asked_where_it_is_and_if_it_is_silent_where_we_are_told() -> None:
    ann, bob = ends()
    ann.ask(bob, 0.0)
    assert talk(ann, bob, 0.0)
    assert bob.hear(ann.seal(bob, 0.0), 0.0, ELSEWHERE)
    bob.ask(ann, 1.0)
    ann.at = ELSEWHERE
    for now in range(1, 122):
        datagram = ann.seal(bob, now)
        assert bob.hear(datagram, now, ELSEWHERE)
    told = Destination(AT_ANN, ANN)
    sealed = bob.table.seal(told, b"x", 121.5)
    assert sealed is not None
    assert sealed.dial == Destination(ELSEWHERE, ANN)
    sealed = bob.table.seal(told, b"x", 123.5)
    assert sealed is not None
    assert sealed.dial == told


def test_whoever_does_not_say_for_whom_reaches_whoever_answered_there() -> None:
    ann, bob = ends()
    anybody = Destination(AT_BOB, None)
    assert ann.table.seal(anybody, b"x", 0.0) is None
    ann.ask(bob, 0.0)
    sealed = ann.table.seal(anybody, b"x", 0.0)
    assert sealed is not None
    assert bob.table.open(sealed.data, AT_ANN, 0.0) == (ANN, b"x")
    reply = bob.table.seal(Destination(AT_ANN, None), b"y", 0.0)  # where it came from
    assert reply is not None
    assert ann.table.open(reply.data, AT_BOB, 0.0) == (BOB, b"y")


def test_what_is_for_one_peer_is_never_sealed_for_another() -> None:
    ann, bob = ends()
    ann.ask(bob, 0.0)
    assert ann.table.seal(Destination(AT_BOB, EVE), b"x", 0.0) is None


def test_a_member_cannot_take_an_address_from_whoever_answered_there() -> None:
    ann, bob = ends()
    eve = End(EVE, ELSEWHERE)
    ann.ask(bob, 0.0)
    eve.ask(ann, 0.0)
    assert ann.hear(eve.seal(ann, 0.0), 0.0, AT_BOB)  # a source is easily forged
    sealed = ann.table.seal(Destination(AT_BOB, None), b"x", 0.0)
    assert sealed is not None
    assert bob.table.open(sealed.data, AT_ANN, 0.0) is not None


# limits -------------------------------------------------------------------------------------------


def test_one_peer_holds_only_so_many_sessions() -> None:
    ann, bob = ends()
    for number in range(100):
        ann.ask(bob, number / 100)
    assert len(ann.table) == len(bob.table) == CONFIG.most_per_peer
    assert talk(ann, bob, 1.0)


def test_sessions_are_kept_with_only_so_many_peers() -> None:
    ann, bob = ends(SessionConfig(most_peers=3))
    bob.ask(ann, 0.0)
    others = [End(PeerId(bytes([number]) * 32), ELSEWHERE) for number in range(10)]
    for number, other in enumerate(others):
        other.ask(ann, float(number))
        bob.ask(ann, float(number))  # whoever renews its session stays
    assert talk(bob, ann, 10.0)
    assert len(ann.table._known) == 3
    assert len(ann.table._index) == sum(len(known.sessions) for known in ann.table._known.values())


def test_what_has_expired_is_forgotten() -> None:
    ann, _ = ends()
    for number in range(10):
        End(PeerId(bytes([number]) * 32), ELSEWHERE).ask(ann, float(number))
    End(EVE, ELSEWHERE).ask(ann, 364.5)
    assert len(ann.table) == 6


@given(st.binary(max_size=1300), st.booleans())
def test_no_bytes_make_open_raise(data: bytes, addressed: bool) -> None:
    ann, bob = ends()
    ann.ask(bob, 0.0)
    if addressed:
        sealed = ann.seal(bob, 0.0)
        assert sealed is not None
        data = sealed[:5] + data
    assert bob.table.open(data, AT_ANN, 0.0) is None


def test_addresses_that_peers_claim_are_not_collected_without_end() -> None:
    ann, bob = ends(SessionConfig(most_peers=4))
    ann.ask(bob, 0.0)
    for port in range(1000):
        assert bob.hear(ann.seal(bob, 0.0), 0.0, Address("10.0.0.9", port))
    assert len(bob.table._at) <= 8


Now = Callable[[], float]
