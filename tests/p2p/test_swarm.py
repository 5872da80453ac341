"""Swarms in a simulated network; the transport is tested in `test_endpoint`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p import (
    MAX_DATAGRAM,
    Address,
    Channel,
    Packet,
    PacketRejected,
    PayloadReceived,
    Peer,
    PeerDown,
    PeerId,
    PeerUp,
    SeedUnreachable,
    Swarm,
    SwarmConfig,
    UnknownPeer,
)
from p2p.messages import TABLE, Accept, Disconnect, Ping, Request, Shuffled, Unknown
from sims.network import Link, Network
from sims.pair import exchange


def peer(index: int) -> Peer:
    key = PeerId(sha256(b"%d" % index).digest())
    return Peer(key, Address(f"10.0.{index // 256}.{index % 256}", 7946))


def swarm(index: int, incarnation: int = 1) -> Swarm:
    return Swarm(peer(index), SwarmConfig(), Random(f"{index}/{incarnation}"), incarnation)


@dataclass
class World:
    """Swarms on a network, and all that they said."""

    link: Link = field(default_factory=Link)
    seed: int = 0
    swarms: dict[int, Swarm] = field(default_factory=dict)
    events: list[tuple[float, Address, object]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.network = Network(self.seed, self.link, self._on_event)

    def _on_event(self, address: Address, event: object, now: float) -> None:
        self.events.append((now, address, event))

    def start(self, index: int, *seeds: int, incarnation: int = 1) -> Swarm:
        new = swarm(index, incarnation)
        new.join([peer(seed).address for seed in seeds], self.network.now)
        self.swarms[index] = new
        self.network.attach(new, new.me.address)
        return new

    def meets(self, index: int, *others: int) -> Swarm:
        """Start one that has been told of the others."""
        new = swarm(index)
        for other in others:
            new.meet(peer(other), self.network.now)
        self.swarms[index] = new
        self.network.attach(new, new.me.address)
        return new

    def crash(self, index: int) -> None:
        self.network.detach(self.swarms.pop(index).me.address)

    def of(self, kind: type, index: int) -> list[object]:
        address = peer(index).address
        return [event for _, at, event in self.events if at == address and isinstance(event, kind)]

    def links(self) -> set[tuple[PeerId, PeerId]]:
        return {(one.me.id, other) for one in self.swarms.values() for other in one.neighbours}

    def one_sided(self) -> set[tuple[PeerId, PeerId]]:
        links = self.links()
        return {link for link in links if link[::-1] not in links}

    def connected(self) -> bool:
        by_id = {one.me.id: one for one in self.swarms.values()}
        waiting = [next(iter(by_id))]
        seen = set(waiting)
        while waiting:
            for other in by_id[waiting.pop()].neighbours:
                if other in by_id and other not in seen:
                    seen.add(other)
                    waiting.append(other)
        return len(seen) == len(by_id)


def grown(nodes: int, link: Link | None = None, seed: int = 0) -> World:
    world = World(link or Link(), seed)
    for index in range(nodes):
        world.start(index, *([0] if index else []))
        world.network.run(0.1)
    world.network.run(60)
    return world


def test_two_peers_become_neighbours_through_a_seed() -> None:
    a, b = swarm(0), swarm(1)
    b.join([a.me.address], 0.0)
    events = exchange(a, b, 0.0)
    assert set(events) == {PeerUp(a.me), PeerUp(b.me)}
    assert list(a.neighbours) == [b.me.id]
    assert list(b.neighbours) == [a.me.id]


def test_a_payload_arrives_with_its_sender() -> None:
    a, b = swarm(0), swarm(1)
    b.join([a.me.address], 0.0)
    exchange(a, b, 0.0)
    a.send(b.me.id, b"hello", 1.0)
    (event,) = exchange(a, b, 1.0)
    assert event == PayloadReceived(a.me, memoryview(b"hello"))


def test_a_small_payload_is_a_datagram_and_a_large_one_a_stream() -> None:
    a, b = swarm(0), swarm(1)
    b.join([a.me.address], 0.0)
    exchange(a, b, 0.0)
    for size, channel in ((1000, Channel.DATAGRAM), (MAX_DATAGRAM, Channel.STREAM)):
        a.send(b.me.id, bytes(size), 1.0)
        packet = a.poll_transmit()
        assert packet is not None
        assert packet.channel is channel


def test_sending_to_a_stranger_is_our_own_mistake() -> None:
    with pytest.raises(UnknownPeer):
        swarm(0).send(peer(1).id, b"", 0.0)


def test_five_peers_that_know_one_seed_all_become_neighbours() -> None:
    world = grown(5)
    assert {len(one.neighbours) for one in world.swarms.values()} == {4}
    assert not world.one_sided()


def test_a_swarm_fills_up_and_is_connected() -> None:
    world = grown(60)
    degrees = [len(one.neighbours) for one in world.swarms.values()]
    assert max(degrees) == 5
    assert degrees.count(5) >= 54
    assert not world.one_sided()
    assert world.connected()


def test_a_swarm_forms_where_three_of_ten_datagrams_are_lost_and_some_arrive_twice() -> None:
    world = grown(30, Link(loss=0.3, duplicate=0.1))
    world.network.link = Link()
    world.network.run(60)
    assert world.connected()
    assert not world.one_sided()


def test_a_crash_is_noticed_and_the_link_replaced() -> None:
    world = grown(20)
    world.crash(7)
    neighbours = [one.me.id for one in world.swarms.values() if peer(7).id in one.neighbours]
    world.network.run(30)
    for index, one in world.swarms.items():
        assert peer(7).id not in one.neighbours
        if one.me.id in neighbours:
            downs = [event for event in world.of(PeerDown, index) if event.peer == peer(7)]
            assert "silent" in downs[-1].reason or "gave way" in downs[-1].reason
    assert sum(len(one.neighbours) for one in world.swarms.values()) >= 5 * 19 - 3


def test_a_restarted_peer_is_a_new_neighbour() -> None:
    world = World()
    world.start(0)
    world.start(1, 0)
    world.network.run(5)
    world.crash(1)
    world.start(1, 0, incarnation=2)
    world.network.run(2)
    downs, ups = world.of(PeerDown, 0), world.of(PeerUp, 0)
    assert [event.reason for event in downs] == ["was started anew"]
    assert ups == [PeerUp(peer(1))] * 2
    assert not world.one_sided()


def test_a_peer_that_leaves_is_gone_at_once() -> None:
    world = World()
    world.start(0)
    one = world.start(1, 0)
    world.network.run(5)
    assert one.leave(world.network.now) == [PeerDown(peer(0), "we left")]
    world.network.pump(one.me.address)
    world.network.run(0.2)
    assert world.of(PeerDown, 0) == [PeerDown(peer(1), "left")]
    assert peer(1).id not in world.swarms[0].passive


def test_halves_of_a_partition_merge_again() -> None:
    world = grown(20)
    sides = [[peer(i).address for i in range(10)], [peer(i).address for i in range(10, 20)]]
    world.network.partition(*sides)
    world.network.run(60)
    assert not world.connected()
    world.network.heal()
    world.network.run(120)
    assert world.connected()
    swapped = world.one_sided()  # one end of a link may just be making way
    world.network.run(5)
    assert not swapped & world.one_sided()


@pytest.mark.parametrize("nodes", [2, 4, 8])
def test_halves_of_a_small_network_merge_again_after_a_long_partition(nodes: int) -> None:
    world = grown(nodes)
    world.network.partition(
        [peer(i).address for i in range(0, nodes, 2)], [peer(i).address for i in range(1, nodes, 2)]
    )
    world.network.run(600)
    world.network.heal()
    world.network.run(120)
    assert world.connected()


def test_an_unreachable_seed_is_reported_and_tried_until_it_answers() -> None:
    world = World()
    world.start(1, 0)
    world.network.run(60)
    (event,) = world.of(SeedUnreachable, 1)[:1]
    assert event == SeedUnreachable(peer(0).address, 1)
    world.start(0)
    world.network.run(60)
    assert peer(0).id in world.swarms[1].neighbours


def test_a_seed_that_is_forgotten_is_not_tried_again() -> None:
    world = World()
    one = world.start(1, 0)
    world.network.run(5)
    one.forget([peer(0).address, peer(7).address])
    world.start(0)
    world.network.run(60)
    assert not one.neighbours
    assert not world.of(SeedUnreachable, 1)


def test_who_meets_somebody_becomes_his_neighbour_and_is_introduced_to_the_others() -> None:
    world = grown(3)
    new = world.meets(3, 1)
    world.network.run(10)
    assert len(new.neighbours) == 3
    assert not world.one_sided()


def test_somebody_who_was_met_and_gives_no_answer_is_let_go_quietly() -> None:
    world = World()
    one = world.meets(1, 0, 1)
    world.network.run(60)
    assert not world.events
    assert not one.passive


def test_a_peer_that_is_its_own_seed_does_not_become_its_own_neighbour() -> None:
    one = swarm(0)
    alias = Address("127.0.0.1", 7946)
    one.join([alias, one.me.address], 0.0)
    request = one.poll_transmit()
    assert request is not None
    assert request.address == alias
    assert one.receive(Packet(one.me.address, request.data, request.channel), 0.0) == []
    assert one.poll_transmit() is None
    assert not one.neighbours


def test_a_link_is_up_only_after_both_ends_have_confirmed() -> None:
    a, b = swarm(0), swarm(1)
    b.join([a.me.address], 0.0)
    request = b.poll_transmit()
    assert request is not None
    request = Packet(b.me.address, request.data, request.channel)
    assert a.receive(request, 0.0) == []
    assert not a.neighbours, "an accepted link is not up before its other end confirms"
    accept = a.poll_transmit()
    assert accept is not None
    accept = Packet(a.me.address, accept.data, accept.channel)
    assert b.receive(accept, 0.0) == [PeerUp(a.me)]
    ping = b.poll_transmit()
    assert ping is not None
    ping = Packet(b.me.address, ping.data, ping.channel)
    assert a.receive(ping, 0.0) == [PeerUp(b.me)]


def test_a_late_accept_does_not_resurrect_a_link() -> None:
    a, b = swarm(0), swarm(1)
    b.join([a.me.address], 0.0)
    request = b.poll_transmit()
    assert request is not None
    a.receive(Packet(b.me.address, request.data, request.channel), 0.0)
    accept = a.poll_transmit()
    assert accept is not None
    now = 0.0
    while b.next_timeout() < 7.9:  # the request is given up
        now = b.next_timeout()
        b.handle_timeout(now)
    while b.poll_transmit():
        pass
    assert b.receive(Packet(a.me.address, accept.data, accept.channel), now) == []
    assert not b.neighbours
    goodbye = b.poll_transmit()
    assert goodbye is not None
    assert isinstance(TABLE.decode(goodbye.data)[0], Disconnect)


def test_a_late_copy_of_a_request_does_not_reset_a_link() -> None:
    a, b = swarm(0), swarm(1)
    b.join([a.me.address], 0.0)
    request = b.poll_transmit()
    assert request is not None
    copy = Packet(b.me.address, request.data, request.channel)
    a.receive(copy, 0.0)
    exchange(a, b, 0.0)
    assert list(a.neighbours) == [b.me.id]
    assert a.receive(copy, 1.0) == []
    assert list(a.neighbours) == [b.me.id]


def test_requests_that_cross_become_one_link() -> None:
    a, b = swarm(0), swarm(1)
    a.join([b.me.address], 0.0)
    b.join([a.me.address], 0.0)
    events = list(exchange(a, b, 0.0))
    assert sorted(map(repr, events)) == sorted(map(repr, [PeerUp(a.me), PeerUp(b.me)]))
    for _ in range(20):
        now = min(a.next_timeout(), b.next_timeout())
        events += [*a.handle_timeout(now), *b.handle_timeout(now), *exchange(a, b, now)]
    assert not [event for event in events if isinstance(event, PeerDown)]


def test_a_message_on_an_unknown_link_is_answered_with_no_more_bytes() -> None:
    one = swarm(0)
    ping = TABLE.encode(Ping(12345, 1, False))
    assert one.receive(Packet(peer(1).address, ping, Channel.DATAGRAM), 0.0) == []
    answer = one.poll_transmit()
    assert answer is not None
    assert TABLE.decode(answer.data)[0] == Unknown(12345)
    assert len(answer.data) <= len(ping)


def test_a_seed_that_answers_for_somebody_else_is_not_taken_for_a_known_peer() -> None:
    one = swarm(0)
    one.join([peer(1).address], 0.0)
    request = one.poll_transmit()
    assert request is not None
    asked = TABLE.decode(request.data)[0]
    assert isinstance(asked, Request)
    forged = TABLE.encode(Accept(peer(2), 1, 1, 7, asked.token + 1))
    assert one.receive(Packet(peer(1).address, forged, Channel.DATAGRAM), 0.0) == []
    assert not one.neighbours


def test_who_claims_to_be_somebody_else_is_rejected() -> None:
    a, b = swarm(0), swarm(1)
    b.join([a.me.address], 0.0)
    request = b.poll_transmit()
    assert request is not None
    forged = Packet(b.me.address, request.data, request.channel, peer(2).id)
    (event,) = a.receive(forged, 0.0)
    assert isinstance(event, PacketRejected)
    exchange(a, b, 0.0)
    assert not a.neighbours


def test_a_stranger_cannot_speak_on_a_link_whose_token_he_has_seen() -> None:
    a, b = swarm(0), swarm(1)
    b.join([a.me.address], 0.0)
    exchange(a, b, 0.0)
    b.send(a.me.id, b"hello", 1.0)
    payload = b.poll_transmit()
    assert payload is not None
    assert payload.peer == a.me.id, "nobody else may get it"
    stranger = Packet(b.me.address, payload.data, payload.channel, peer(2).id)
    assert a.receive(stranger, 1.0) == []


def test_a_request_that_would_have_us_answer_a_third_party_is_rejected() -> None:
    one = swarm(0)
    request = TABLE.encode(Request(1, peer(1), None, 1, 1, 1, 5, True))
    (event,) = one.receive(Packet(peer(2).address, request, Channel.DATAGRAM), 0.0)
    assert isinstance(event, PacketRejected)
    assert one.poll_transmit() is None


def test_invented_peers_that_never_confirm_cost_no_link() -> None:
    world = grown(12)
    one = world.swarms[3]
    before = list(one.neighbours)
    for index in range(100, 160):
        invented = peer(index)
        request = TABLE.encode(Request(1, invented, one.me.id, 1, 1, index, 5, False))
        one.receive(Packet(invented.address, request, Channel.DATAGRAM), world.network.now)
    world.network.pump(one.me.address)
    world.network.run(30)
    assert len(one.neighbours) >= len(before)
    assert not {peer(index).id for index in range(100, 160)} & set(one.neighbours)


def test_an_old_copy_of_a_request_does_not_reset_a_link_at_either_end() -> None:
    a, b = swarm(0), swarm(1)
    a.join([b.me.address], 0.0)
    old = a.poll_transmit()
    assert old is not None
    b.join([a.me.address], 0.5)
    events = exchange(a, b, 0.5)  # a's request was lost; b's makes the link
    late = Packet(a.me.address, old.data, old.channel)
    assert b.receive(late, 1.0) == []
    assert list(b.neighbours) == [a.me.id]
    assert not [event for event in events if isinstance(event, PeerDown)]


def test_the_round_trip_of_a_busy_link_is_measured() -> None:
    world = World(Link(latency=(0.05, 0.05)))
    one = world.start(0)
    other = world.start(1, 0)
    world.network.run(2)
    for _ in range(200):
        for this, that in ((one, other), (other, one)):
            this.send(that.me.id, b"x", world.network.now)
            world.network.pump(this.me.address)
        world.network.run(0.1)
    assert one.rtt(other.me.id) == pytest.approx(0.1, rel=0.1)
    assert other.rtt(one.me.id) == pytest.approx(0.1, rel=0.1)


def test_a_shuffle_nobody_asked_for_teaches_nothing() -> None:
    one = swarm(0)
    message = TABLE.encode(Shuffled(1, (peer(1), peer(2))))
    one.receive(Packet(peer(1).address, message, Channel.DATAGRAM), 0.0)
    assert not one.passive


def test_another_version_of_the_protocol_is_refused_by_name() -> None:
    request = Request(2, peer(1), None, 1, 1, 1, 5, True)
    packet = Packet(peer(1).address, TABLE.encode(request), Channel.DATAGRAM)
    (event,) = swarm(0).receive(packet, 0.0)
    assert isinstance(event, PacketRejected)
    assert "version 2" in event.reason


@given(st.lists(st.binary(max_size=1300), max_size=20))
def test_no_bytes_make_receive_raise(datagrams: list[bytes]) -> None:
    one = swarm(0)
    for data in datagrams:
        one.receive(Packet(peer(1).address, data, Channel.DATAGRAM), 0.0)


def mutate(data: bytes, position: int, value: int) -> bytes:
    index = position % len(data)
    return data[:index] + bytes([value]) + data[index + 1 :]


@settings(max_examples=30)
@given(st.data())
def test_no_damaged_message_makes_receive_raise(data: st.DataObject) -> None:
    a, b = swarm(0), swarm(1)
    b.join([a.me.address], 0.0)
    now = 0.0
    for _ in range(30):
        now += 0.3
        for sender, receiver in ((a, b), (b, a)):
            sender.handle_timeout(now)
            while (packet := sender.poll_transmit()) is not None:
                damaged = packet.data
                if data.draw(st.integers(0, 9)) == 0:
                    damaged = mutate(damaged, *data.draw(st.tuples(*[st.integers(0, 255)] * 2)))
                receiver.receive(Packet(sender.me.address, damaged, packet.channel), now)


def replay(make: Callable[[], World]) -> tuple[str, str]:
    return make().network.trace, make().network.trace


def test_the_same_seed_gives_the_same_bytes() -> None:
    one, other = replay(lambda: grown(12, Link(loss=0.1), seed=3))
    assert one == other
    assert one != grown(12, Link(loss=0.1), seed=4).network.trace
