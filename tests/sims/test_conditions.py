from math import inf
from statistics import median

import pytest

from p2p import Address, Channel, Packet
from sims.conditions import DeviceConfig, NetworkConfig, Routes, devices
from sims.network import Link, Network

A, B, C = (Address(f"10.0.0.{n}", 1) for n in range(3))


class Box:
    """A machine that says what it is told and keeps what it hears, with the time."""

    def __init__(self) -> None:
        self.out: list[Packet] = []
        self.heard: list[tuple[float, bytes]] = []

    def receive(self, packet: Packet, now: float) -> list[object]:
        self.heard.append((now, bytes(packet.data)))
        return []

    def handle_timeout(self, now: float) -> list[object]:
        return []

    def poll_transmit(self) -> Packet | None:
        return self.out.pop(0) if self.out else None

    def next_timeout(self) -> float:
        return inf


def network(link: Link) -> tuple[Network, dict[Address, Box]]:
    made = Network(0, link)
    boxes = {address: Box() for address in (A, B, C)}
    for address, box in boxes.items():
        made.attach(box, address)
    return made, boxes


def say(made: Network, box: Box, to: Address, *texts: bytes) -> None:
    box.out += [Packet(to, text, Channel.DATAGRAM) for text in texts]
    made.pump(next(address for address, host in made.hosts.items() if host.machine is box))


def test_what_arrives_at_once_queues_for_a_narrow_downlink() -> None:
    made, boxes = network(Link(latency=(0.01, 0.01), bandwidth=inf, down=1000))
    say(made, boxes[A], C, b"x" * 500)
    say(made, boxes[B], C, b"y" * 500)
    made.run(5)
    assert [when for when, _ in boxes[C].heard] == pytest.approx([0.51, 1.01])


def test_a_queue_that_is_full_drops_datagrams() -> None:
    made, boxes = network(Link(latency=(0.01, 0.01), bandwidth=1000, queue=1.0))
    say(made, boxes[A], B, *[b"x" * 500] * 6)
    made.run(10)
    assert len(boxes[B].heard) == 3  # half a second each: the fourth would wait for 1.5 s
    assert made.sent == 3000


def test_some_datagrams_are_overtaken() -> None:
    made, boxes = network(Link(latency=(0.01, 0.01), reorder=0.2))
    say(made, boxes[A], B, *[bytes([n]) for n in range(100)])
    made.run(1)
    order = [text for _, text in boxes[B].heard]
    assert len(order) == 100
    assert order != sorted(order)


def test_behind_a_nat_only_answers_arrive() -> None:
    made, boxes = network(Link())
    made.shelter(A)
    say(made, boxes[B], A, b"unasked")
    made.run(1)
    assert boxes[A].heard == []
    say(made, boxes[A], B, b"question")
    made.run(1)
    say(made, boxes[B], A, b"answer")
    say(made, boxes[C], A, b"unasked")
    made.run(1)
    assert [text for _, text in boxes[A].heard] == [b"answer"]
    made.run(61)
    say(made, boxes[B], A, b"too late")
    made.run(1)
    assert len(boxes[A].heard) == 1


def test_links_have_latencies_of_their_own_both_ways_and_rates_of_their_ends() -> None:
    places = [Address(f"10.0.0.{n}", 1) for n in range(40)]
    kinds = [DeviceConfig(share=0.5, up=1e4, down=2e4), *devices([], 39, 0)]
    config = NetworkConfig(latency=(0.01, 0.25), links="lognormal", jitter=0.1)
    routes = Routes(config, kinds, places, 0)
    assert routes(places[3], places[7]).latency == routes(places[7], places[3]).latency
    assert routes(places[0], places[1]).bandwidth == routes(places[1], places[0]).down / 2 == 1e4
    middles = [sum(routes(a, b).latency) / 2 for a in places for b in places if a != b]
    assert median(middles) == pytest.approx(0.05, rel=0.15)
    assert 0.02 < sum(middle > 0.25 for middle in middles) / len(middles) < 0.09
