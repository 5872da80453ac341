"""The roster: records of strangers, and how they spread."""

from collections.abc import Sequence
from functools import cache, lru_cache
from hashlib import sha256
from itertools import pairwise
from math import inf
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p import (
    Address,
    Channel,
    Packet,
    Peer,
    PeerId,
    RecordRejected,
    Swarm,
    SwarmConfig,
    WireError,
)
from p2p.events import SwarmEvent
from p2p.identity import Identity, verify
from p2p.messages import TABLE, Digest, Records, Wanted
from p2p.record import MAX_RECORD, METRIC, METRICS, NAME, NEIGHBOURS, Record, prefix, read, seal
from p2p.roster import LAST, RosterConfig
from sims.network import Link, Network
from sims.pair import exchange

verify_once = lru_cache(2**14)(verify)
QUICK = RosterConfig(publish_every=5.0, expiry=30.0, renew_every=8.0)


@cache
def identity(index: int) -> Identity:
    return Identity.of(sha256(b"%d" % index).digest())


def peer(index: int) -> Peer:
    return Peer(identity(index).id, Address(f"10.0.{index // 256}.{index % 256}", 7946))


def swarm(
    index: int, config: RosterConfig | None = None, incarnation: int = 1, rng: Random | None = None
) -> Swarm:
    return Swarm(
        peer(index),
        SwarmConfig(roster=config or RosterConfig()),
        rng or Random(f"{index}/{incarnation}"),
        incarnation,
        sign=identity(index).sign,
        verify=verify_once,
    )


def record(index: int, sequence: int = 1, samples: int = 0) -> Record:
    return Record(peer(index), sequence, f"node-{index}", samples, (), (), False)


def sealed(index: int, sequence: int = 1, samples: int = 0) -> bytes:
    return seal(record(index, sequence, samples), identity(index).sign)


class Pair:
    """A swarm and a neighbour of it whom we let say what we like."""

    def __init__(self, config: RosterConfig | None = None) -> None:
        self.one, self.other = swarm(0, config), swarm(1, config)
        self.one.join([self.other.me.address], 0.0)
        exchange(self.one, self.other, 0.0)

    def hear(self, *records: bytes, age: float = 0.0, now: float = 1.0) -> Sequence[SwarmEvent]:
        events: list[SwarmEvent] = []
        token = self.one.neighbours[self.other.me.id].mine
        for data in records:
            message = TABLE.encode(Records(token, ((round(10 * age), data),)))
            packet = Packet(self.other.me.address, message, Channel.DATAGRAM)
            events += self.one.receive(packet, now)
        return events

    def held(self) -> dict[PeerId, int]:
        entries = self.one.roster.entries.values()
        return {entry.record.peer.id: entry.record.sequence for entry in entries}


# one record ---------------------------------------------------------------------------------------


def test_the_largest_record_has_its_place() -> None:
    largest = Record(
        Peer(identity(0).id, Address("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", 65535)),
        LAST,
        "x" * NAME,
        LAST,
        (("m" * METRIC, inf),) * METRICS,
        (bytes(8),) * NEIGHBOURS,
        True,
    )
    data = seal(largest, identity(0).sign)
    assert len(data) <= MAX_RECORD
    assert read(data) == largest


@pytest.mark.parametrize("name", ["\x1b[2J", "two\nlines", "\u202egnp.exe", "x" * 33])
def test_what_a_terminal_should_not_print_is_no_name(name: str) -> None:
    good = sealed(2)
    bad = good[:64] + good[64:].replace(
        b"\xa6node-2", b"\xd9%c" % len(name.encode()) + name.encode()
    )
    with pytest.raises(WireError, match="printable"):
        read(bad)


def test_what_we_say_of_ourselves_is_made_to_fit() -> None:
    one = swarm(0)
    metrics = {f"a long name of a metric {index}\n": index for index in range(20)}
    one.publish("\x1bä" * 40, 2**62, metrics, 0.0)
    one.handle_timeout(0.0)
    (entry,) = one.roster.entries.values()
    assert entry.record.name == "ä" * 16
    assert entry.record.metrics == tuple(("a long name of a", index) for index in range(METRICS))


# what neighbours send -----------------------------------------------------------------------------


@given(st.permutations(range(1, 7)))
def test_the_highest_sequence_wins_in_whatever_order_they_come(order: list[int]) -> None:
    pair = Pair()
    assert pair.hear(*(sealed(2, sequence, 10 * sequence) for sequence in order)) == []
    (entry,) = pair.one.roster.entries.values()
    assert (entry.record.sequence, entry.record.samples) == (6, 60)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_record_with_one_byte_changed_is_refused_and_its_sender_named(
    where: int, flip: int
) -> None:
    pair = Pair()
    pair.hear(sealed(2, 1))
    forged = bytearray(sealed(2, 2))
    forged[where % len(forged)] ^= flip
    events = pair.hear(bytes(forged))
    assert pair.held() == {peer(2).id: 1}
    for event in events:  # none if the change made it older, or somebody's of whom we know nothing
        assert isinstance(event, RecordRejected)
        assert event.peer == pair.other.me


@given(st.binary(max_size=600))
def test_no_bytes_that_claim_to_be_a_record_raise_or_change_anything(data: bytes) -> None:
    pair = Pair()
    (event,) = pair.hear(data)
    assert isinstance(event, RecordRejected)
    assert pair.held() == {}


def test_nobody_can_sign_for_another() -> None:
    pair = Pair()
    (event,) = pair.hear(seal(record(2), identity(3).sign))
    assert event == RecordRejected(pair.other.me, f"{peer(2).id.short} has not signed this record")


def test_a_record_that_is_too_large_is_refused() -> None:
    (event,) = Pair().hear(bytes(MAX_RECORD + 1))
    assert isinstance(event, RecordRejected)
    assert "above 512" in event.reason


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(2, 40), st.integers(1, 3), st.floats(0, 20)), max_size=60))
def test_there_are_never_more_records_than_allowed_and_a_neighbours_stays(
    arrivals: list[tuple[int, int, float]],
) -> None:
    pair = Pair(RosterConfig(most=8))
    pair.hear(sealed(1), age=20.0)  # our neighbour's; the oldest
    for index, sequence, age in arrivals:
        pair.hear(sealed(index, sequence), age=age)
        assert len(pair.held()) <= 8
        assert peer(1).id in pair.held()


def test_a_full_roster_keeps_those_that_were_renewed_last() -> None:
    pair = Pair(RosterConfig(most=4))
    for index, age in ((2, 5.0), (3, 1.0), (4, 9.0), (5, 3.0), (6, 8.0), (7, 2.0)):
        pair.hear(sealed(index), age=age)
    assert sorted(pair.held()) == sorted(peer(index).id for index in (2, 3, 5, 7))


def test_only_what_would_change_something_is_checked_and_not_too_much_of_it() -> None:
    checked: list[PeerId] = []

    def count(who: PeerId, signature: bytes, data: bytes) -> bool:
        checked.append(who)
        return False

    pair = Pair(RosterConfig(check_rate=1.0, check_burst=10.0))
    pair.hear(sealed(2, 5))
    pair.one.roster._verify = count
    pair.hear(*[sealed(2, 5), sealed(2, 4)] * 10)
    assert checked == []
    for index in range(3, 100):
        pair.hear(sealed(index))
    assert len(checked) == 9
    pair.hear(*(sealed(index) for index in range(3, 100)), now=3.0)
    assert len(checked) == 11


def test_a_process_whose_clock_was_set_back_outdoes_its_earlier_records() -> None:
    pair = Pair()
    pair.one.publish("me", 1, {}, 0.0)
    pair.one.handle_timeout(0.0)
    pair.hear(sealed(0, 1_000_000))
    pair.one.handle_timeout(60.0)
    assert pair.held()[peer(0).id] == 1_000_001


def test_whoever_asks_for_records_again_and_again_is_not_served_for_ever() -> None:
    pair = Pair(RosterConfig(check_burst=10.0))
    pair.hear(sealed(2))
    while pair.one.poll_transmit():
        pass
    token = pair.one.neighbours[pair.other.me.id].mine
    ask = TABLE.encode(Wanted(token, 1, (prefix(peer(2).id),) * 40))
    pair.one.receive(Packet(pair.other.me.address, ask, Channel.DATAGRAM), 1.0)
    sent = 0
    while (packet := pair.one.poll_transmit()) is not None:
        message = TABLE.decode(packet.data)[0]
        assert isinstance(message, Records)
        sent += len(message.records)
    assert sent == 10


@given(st.lists(st.tuples(st.binary(min_size=8, max_size=8), st.integers(0, LAST)), max_size=48))
def test_any_digest_is_answered_with_what_we_lack(named: list[tuple[bytes, int]]) -> None:
    pair = Pair()
    token = pair.one.neighbours[pair.other.me.id].mine
    digest = TABLE.encode(Digest(token, 7, tuple(named)))
    pair.one.receive(Packet(pair.other.me.address, digest, Channel.DATAGRAM), 1.0)
    packet = pair.one.poll_transmit()
    assert packet is not None
    answer = TABLE.decode(packet.data)[0]
    assert isinstance(answer, Wanted)
    assert answer.records == tuple(dict.fromkeys(whose for whose, _ in named))


# age ----------------------------------------------------------------------------------------------


def test_a_record_ages_wherever_it_is_and_is_forgotten_in_time() -> None:
    pair = Pair(QUICK)
    pair.hear(sealed(2), age=12.0, now=1.0)
    (entry,) = pair.one.roster.entries.values()
    assert entry.published == -11.0
    pair.one.handle_timeout(18.9)
    assert pair.held()
    pair.one.handle_timeout(19.1)
    assert not pair.held()
    assert pair.hear(sealed(2), age=30.0, now=19.1) == []
    assert not pair.held(), "nobody gives back what is too old"


def test_the_same_record_does_not_get_younger() -> None:
    pair = Pair(QUICK)
    pair.hear(sealed(2), age=12.0, now=1.0)
    pair.hear(sealed(2), age=0.0, now=1.0)
    (entry,) = pair.one.roster.entries.values()
    assert entry.published == -11.0


# many ---------------------------------------------------------------------------------------------


class World:
    """Swarms that publish, on a network."""

    def __init__(self, nodes: int, link: Link | None = None, config: RosterConfig | None = None):
        self.network = Network(0, link)
        self.config = config
        self.swarms: dict[int, Swarm] = {}
        for index in range(nodes):
            self.start(index)
            self.network.run(0.2)

    def start(self, index: int, incarnation: int = 1) -> None:
        one = self.swarms[index] = swarm(index, self.config, incarnation)
        one.publish(f"node-{index}", 0, {}, self.network.now)
        one.join([peer(0).address], self.network.now)
        self.network.attach(one, one.me.address)

    def leave(self, index: int) -> None:
        one = self.swarms.pop(index)
        one.leave(self.network.now)
        self.network.pump(one.me.address)
        self.network.detach(one.me.address)

    def crash(self, index: int) -> None:
        self.network.detach(self.swarms.pop(index).me.address)

    def everyone_knows(self, *indices: int) -> bool:
        wanted = {prefix(peer(index).id) for index in indices}
        return all(wanted <= one.roster.entries.keys() for one in self.swarms.values())

    def nobody_knows(self, index: int) -> bool:
        whose = prefix(peer(index).id)
        return all(whose not in one.roster.entries for one in self.swarms.values())

    def until(self, condition: bool | object, limit: float) -> bool:
        """Whether it comes true within so many virtual seconds."""
        assert callable(condition)
        for _ in range(round(limit)):
            if condition():
                return True
            self.network.run(1.0)
        return bool(condition())


def test_a_hundred_peers_all_know_each_other_within_ten_seconds_of_the_last_one() -> None:
    world = World(100)
    assert world.until(lambda: world.everyone_knows(*range(100)), 10)


def test_everybody_knows_everybody_where_a_fifth_of_the_datagrams_is_lost() -> None:
    world = World(25, Link(loss=0.2, duplicate=0.05))
    assert world.until(lambda: world.everyone_knows(*range(25)), 60)


def test_a_newcomer_knows_everybody_at_once() -> None:
    world = World(30)
    world.network.run(10)
    world.start(30)
    assert world.until(lambda: len(world.swarms[30].roster.entries) == 31, 3)


def test_halves_of_a_partition_forget_each_other_and_are_one_again() -> None:
    world = World(12, config=QUICK)
    world.network.run(10)
    sides = [[peer(index).address for index in half] for half in (range(6), range(6, 12))]
    world.network.partition(*sides)
    world.network.run(50)
    for index, one in world.swarms.items():
        known = {entry.record.peer.id for entry in one.roster.entries.values()}
        half = range(6) if index < 6 else range(6, 12)
        assert known == {peer(other).id for other in half}
    world.network.heal()
    assert world.until(lambda: world.everyone_knows(*range(12)), 90)


def test_who_left_is_known_to_have_left_and_who_died_is_forgotten_with_him() -> None:
    world = World(12, config=QUICK)
    world.network.run(10)
    assert world.everyone_knows(3, 4)
    world.leave(3)
    world.crash(4)
    world.network.run(8)
    left = prefix(peer(3).id)
    assert all(one.roster.entries[left].record.left for one in world.swarms.values())
    assert world.everyone_knows(4)
    assert world.until(lambda: world.nobody_knows(3) and world.nobody_knows(4), 30)
    world.network.run(60)
    assert world.nobody_knows(3)
    assert world.nobody_knows(4), "nobody gives them back"
    assert world.everyone_knows(*world.swarms)


def test_who_comes_back_after_leaving_is_known_again() -> None:
    world = World(6)
    world.network.run(10)
    world.leave(3)
    world.network.run(5)
    world.start(3, incarnation=1000)
    back = prefix(peer(3).id)
    assert world.until(
        lambda: all(not one.roster.entries[back].record.left for one in world.swarms.values()), 10
    )


def test_peers_with_nothing_new_to_say_are_quiet() -> None:
    world = World(10)
    world.network.run(120)
    said: list[float] = []
    one = world.swarms[0]
    for _ in range(120):
        world.network.run(1.0)
        said.append(one.roster.entries[prefix(one.me.id)].published)
    renewed = sorted(set(said))
    assert 2 <= len(renewed) <= 4
    assert all(later - earlier > 40 for earlier, later in pairwise(renewed))


def test_the_same_seed_gives_the_same_trace() -> None:
    traces = set()
    for _ in range(2):
        world = World(8, Link(loss=0.1))
        world.network.run(20)
        traces.add(world.network.trace)
    assert len(traces) == 1
