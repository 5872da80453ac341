"""Whom a swarm takes as neighbours, and who cannot push them out."""

from collections import Counter
from random import Random

import pytest

from p2p import Address, Channel, LinkConfig, Packet, Peer, PeerDown, Swarm, SwarmConfig
from p2p.diversity import network
from p2p.messages import (
    SHARED_PEERS,
    TABLE,
    Accept,
    Disconnect,
    Message,
    Ping,
    Refuse,
    Request,
    Shuffle,
    Shuffled,
    Walk,
)
from sims.crowd import Crowd, peer


def public(index: int, host: str) -> Peer:
    return Peer(peer(index).id, Address(host, 7946))


def swarm(config: SwarmConfig | None = None) -> Swarm:
    return Swarm(peer(0), config or SwarmConfig(), Random(0), 1)


def said(one: Swarm) -> list[tuple[Address, Message]]:
    found = []
    while (packet := one.poll_transmit()) is not None:
        found.append((packet.address, TABLE.decode(packet.data)[0]))
    return found


def hear(one: Swarm, sender: Peer, message: Message, now: float = 0.0) -> list[object]:
    packet = Packet(sender.address, TABLE.encode(message), Channel.DATAGRAM)
    return list(one.receive(packet, now))


def asked_by(one: Swarm, sender: Peer, now: float = 0.0, missing: int = 1) -> list[Message]:
    """A stranger asks and, where he is accepted, confirms."""
    number = int(now * 100) + 1
    hear(one, sender, Request(1, sender, one.me.id, 1, number, 7, missing, False), now)
    answers = [message for address, message in said(one) if address == sender.address]
    for answer in answers:
        if isinstance(answer, Accept):
            hear(one, sender, Ping(answer.token, 1, False), now)
    return answers


def chosen(one: Swarm, *others: Peer) -> None:
    """It takes these from its own view, and they agree."""
    for other in others:
        one.join([], 0.0, cached=[other])
        requests = [message for _, message in said(one) if isinstance(message, Request)]
        hear(one, other, Accept(other, 1, 1, 9, requests[-1].token))


def test_no_stranger_pushes_out_the_last_links_that_we_chose() -> None:
    one = swarm()
    ours = [peer(1), peer(2)]
    chosen(one, *ours)
    for index in range(100, 200):
        asked_by(one, peer(index), now=float(index), missing=5)
    assert len(one.neighbours) == 5
    assert {other.id for other in ours} <= set(one.neighbours)


def test_strangers_do_take_the_places_of_strangers() -> None:
    one = swarm()
    for index in range(1, 7):
        asked_by(one, peer(index), now=float(index), missing=5)
    assert peer(6).id in one.neighbours


@pytest.mark.parametrize(
    ("hosts", "allowed"),
    [
        (["8.8.8.1", "8.8.8.2", "8.8.8.3"], 2),
        (["8.8.8.1", "8.8.9.2", "8.8.10.3"], 3),
        (["2a00:1450:4001::1", "2a00:1450:4001:800::2", "2a00:1450:4001:900::3"], 2),
        (["::ffff:8.8.8.1", "8.8.8.2", "8.8.8.3"], 2),
        (["10.0.0.1", "10.0.0.2", "10.0.0.3"], 3),
        (["127.0.0.1", "127.0.0.2", "127.0.0.3"], 3),
    ],
)
def test_no_more_than_two_neighbours_live_in_one_public_network(
    hosts: list[str], allowed: int
) -> None:
    one = swarm()
    for index, host in enumerate(hosts, 1):
        asked_by(one, public(index, host))
    assert len(one.neighbours) == allowed


def test_we_do_not_ask_a_third_one_there_either_unless_the_network_is_one_place() -> None:
    for lan, most in ((False, 2), (True, 9)):
        one = swarm(SwarmConfig(links=LinkConfig(lan=lan)))
        cached = [public(index, f"8.8.8.{index}") for index in range(1, 10)]
        one.join([], 0.0, cached=cached)
        while one.next_timeout() < 3.0:
            one.handle_timeout(one.next_timeout())
        asked = {address for address, message in said(one) if isinstance(message, Request)}
        assert 1 <= len(asked) <= most
        assert (len(asked) > 2) is lan


def test_a_network_is_what_costs_an_attacker_something() -> None:
    assert network("8.8.8.8") == network("8.8.8.9") == network("::ffff:8.8.8.1") == "8.8.8.0/24"
    assert network("2a00:1450:4001::1") == "2a00:1450:4001::/48"
    for exempt in ("10.1.2.3", "192.168.0.1", "127.0.0.1", "169.254.0.1", "fe80::1", "::1"):
        assert network(exempt) is None


def test_one_peer_fills_no_more_than_three_tenths_of_the_passive_view() -> None:
    one = swarm()
    chosen(one, peer(1))
    (link,) = one.neighbours.values()
    for step in range(20):
        invented = tuple(peer(1000 + 10 * step + i) for i in range(SHARED_PEERS))
        shuffle = Shuffle(link.mine, peer(999 + step), step, 0, invented)
        hear(one, peer(1), shuffle, now=20.0 * step)
    assert len(one.passive) == 9


def test_a_proven_peer_is_one_source_from_whatever_address_it_speaks() -> None:
    one = swarm()
    chosen(one, peer(1))
    for step in range(20):
        now = 40.0 * (step + 1)
        while one.next_timeout() < now:
            one.handle_timeout(one.next_timeout())
            (link,) = one.neighbours.values()
            hear(one, peer(1), Ping(link.mine, 1, False), one.next_timeout())
        offers = [message for _, message in said(one) if isinstance(message, Shuffle)]
        invented = tuple(peer(1000 + 10 * step + i) for i in range(SHARED_PEERS))
        answer = TABLE.encode(Shuffled(offers[-1].number, invented))
        somewhere = Address("10.6.6.6", 1000 + step)
        one.receive(Packet(somewhere, answer, Channel.DATAGRAM, peer(66).id), now)
    assert 0 < len(one.passive) <= 9


def test_hearsay_does_not_change_the_address_of_somebody_whom_we_have_met() -> None:
    one = swarm()
    one.join([], 0.0, cached=[peer(1), peer(2)])
    requests = [message for _, message in said(one) if isinstance(message, Request)]
    hear(one, peer(1), Accept(peer(1), 1, 1, 9, requests[0].token))
    (link,) = one.neighbours.values()
    lie = Peer(peer(2).id, Address("10.6.6.6", 1))
    hear(one, peer(1), Shuffle(link.mine, peer(3), 5, 0, (lie,)))
    assert one.passive[peer(2).id] == peer(2)
    assert peer(3).id in one.passive, "the rest of what it said is believed"


def test_who_talks_too_much_is_not_listened_to() -> None:
    one = swarm()
    chosen(one, peer(1))
    (link,) = one.neighbours.values()
    for step in range(1000):
        hear(one, peer(1), Walk(link.mine, peer(100 + step), 0))
    # all at once: each walk that is taken becomes a request or, without room, is remembered
    requests = [message for _, message in said(one) if isinstance(message, Request)]
    assert len(requests) + len(one.passive) <= 100


def test_who_asks_time_and_again_gets_no_answers_in_the_end() -> None:
    one = swarm()
    for index in range(1, 6):
        asked_by(one, peer(index))
    answers = sum(len(asked_by(one, peer(50), now=0.01 * step)) for step in range(100))
    assert answers <= 21
    assert isinstance(asked_by(one, peer(50), now=100.0)[0], Refuse)


def test_a_neighbour_that_ends_the_link_on_purpose_stays_in_the_passive_view() -> None:
    one = swarm()
    chosen(one, peer(1))
    (link,) = one.neighbours.values()
    (event,) = hear(one, peer(1), Disconnect(link.mine, False, None))
    assert isinstance(event, PeerDown)
    assert one.passive[peer(1).id] == peer(1)


def test_nothing_that_arrives_late_brings_a_link_back() -> None:
    one = swarm()
    one.join([], 0.0, cached=[peer(1)])
    (request,) = [message for _, message in said(one) if isinstance(message, Request)]
    accept = Accept(peer(1), 1, 1, 9, request.token)
    hear(one, peer(1), accept)
    (link,) = one.neighbours.values()
    hear(one, peer(1), Disconnect(link.mine, False, None))
    for late in (accept, Ping(link.mine, 1, False), Disconnect(link.mine, False, peer(2))):
        assert hear(one, peer(1), late, now=1.0) == []
        assert not one.neighbours


def test_a_restarted_node_asks_its_anchor_first_and_then_the_others() -> None:
    crowd = Crowd()
    crowd.grow(12, rate=10, settle=60)
    known = crowd.swarms[5].known()
    neighbours = list(crowd.swarms[5].neighbours.values())
    assert known[0] == neighbours[0].peer, "the oldest link is the anchor"
    assert list(known[: len(neighbours)]) == [link.peer for link in neighbours]
    crowd.crash(5)
    crowd.network.run(10)
    crowd.start(5, cached=known, incarnation=2)
    crowd.network.run(0.5)
    assert known[0].id in crowd.swarms[5].neighbours
    crowd.network.run(20)
    assert len(crowd.swarms[5].neighbours) >= 4


def test_cached_peers_that_are_all_away_are_found_when_they_come_back() -> None:
    crowd = Crowd()
    crowd.start(0, cached=tuple(peer(index) for index in range(1, 30)))
    crowd.network.run(300)
    assert not crowd.swarms[0].neighbours
    crowd.start(17)
    crowd.network.run(300)
    assert peer(17).id in crowd.swarms[0].neighbours


def test_everybody_comes_to_have_links_of_its_own_choice_and_then_keeps_them() -> None:
    crowd = Crowd()
    crowd.grow(100, rate=20, settle=150)
    ours = Counter(
        min(2, sum(link.ours for link in one.neighbours.values())) for one in crowd.swarms.values()
    )
    assert ours[2] >= 95
    before = len(crowd.downs)
    crowd.network.run(60)
    assert len(crowd.downs) - before <= 40, "a few links are swapped, and each swap ends two"
