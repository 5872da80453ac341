from collections import deque
from math import inf

import pytest

from p2p import Address, Channel, Packet
from sims.network import Link, Network

A, B = Address("10.0.0.1", 1), Address("10.0.0.2", 1)


class Recorder:
    """A machine that remembers what it got and when, and sends what it is told."""

    def __init__(self) -> None:
        self.outbox: deque[Packet] = deque()
        self.got: list[tuple[float, bytes]] = []
        self.alarm = inf
        self.woken: list[float] = []

    def receive(self, packet: Packet, now: float) -> list[object]:
        self.got.append((now, packet.data))
        return []

    def handle_timeout(self, now: float) -> list[object]:
        if now >= self.alarm:
            self.woken.append(now)
            self.alarm = inf
        return []

    def poll_transmit(self) -> Packet | None:
        return self.outbox.popleft() if self.outbox else None

    def next_timeout(self) -> float:
        return self.alarm


def pair(link: Link) -> tuple[Network, Recorder, Recorder]:
    network, a, b = Network(0, link), Recorder(), Recorder()
    network.attach(a, A)
    network.attach(b, B)
    return network, a, b


def send(network: Network, machine: Recorder, count: int, size: int, channel: Channel) -> None:
    for n in range(count):
        machine.outbox.append(Packet(B, n.to_bytes(2) + bytes(size - 2), channel))
    network.pump(A)


def test_a_datagram_takes_the_latency_of_the_link() -> None:
    network, a, b = pair(Link(latency=(0.02, 0.03)))
    send(network, a, 1, 100, Channel.DATAGRAM)
    network.run(1)
    ((at, _),) = b.got
    assert 0.02 <= at <= 0.031


def test_datagrams_are_lost_repeated_and_overtaken_as_the_link_says() -> None:
    network, a, b = pair(Link(loss=0.3, duplicate=0.2))
    send(network, a, 2000, 100, Channel.DATAGRAM)
    network.run(10)
    order = [data[:2] for _, data in b.got]
    assert 0.65 < len(set(order)) / 2000 < 0.8
    assert 0.1 < len(order) / len(set(order)) - 1 < 0.3
    assert order != sorted(order)


def test_streams_arrive_complete_and_in_order_even_where_datagrams_are_lost() -> None:
    network, a, b = pair(Link(loss=0.5))
    send(network, a, 200, 5000, Channel.STREAM)
    network.run(60)
    assert [data[:2] for _, data in b.got] == [n.to_bytes(2) for n in range(200)]


def test_packets_queue_for_the_uplink() -> None:
    network, a, b = pair(Link(latency=(0, 0), bandwidth=1000))
    send(network, a, 3, 500, Channel.DATAGRAM)
    network.run(10)
    assert [at for at, _ in b.got] == pytest.approx([0.5, 1.0, 1.5])


def test_nothing_crosses_a_partition_until_it_heals() -> None:
    network, a, b = pair(Link())
    network.partition([A], [B])
    send(network, a, 3, 100, Channel.DATAGRAM)
    network.run(1)
    assert not b.got
    network.heal()
    send(network, a, 3, 100, Channel.STREAM)
    network.run(1)
    assert len(b.got) == 3


def test_who_is_on_no_side_is_alone() -> None:
    network, a, b = pair(Link())
    network.partition([Address("10.0.0.9", 1)])
    send(network, a, 1, 100, Channel.DATAGRAM)
    network.run(1)
    assert not b.got


def test_a_machine_is_woken_once_at_its_latest_alarm() -> None:
    network, a, _ = pair(Link())
    for alarm in (5.0, 3.0, 4.0):
        a.alarm = alarm
        network.pump(A)
    network.run(10)
    assert a.woken == [4.0]


def test_what_is_sent_to_a_crashed_machine_is_lost() -> None:
    network, a, b = pair(Link())
    send(network, a, 1, 100, Channel.DATAGRAM)
    network.detach(B)
    network.run(1)
    assert not b.got


def test_run_until_stops_at_the_condition_or_at_the_limit() -> None:
    network, a, b = pair(Link(latency=(0.5, 0.5)))
    send(network, a, 1, 100, Channel.DATAGRAM)
    assert network.run_until(lambda: bool(b.got), 10)
    assert network.now < 0.6
    assert not network.run_until(lambda: len(b.got) > 1, 10)
    assert network.now > 10


@pytest.mark.parametrize(
    "settings", [{"loss": 1.0}, {"latency": (0.2, 0.1)}, {"bandwidth": 0}, {"duplicate": -0.1}]
)
def test_a_link_that_cannot_be_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Link(**settings)  # type: ignore[arg-type]
