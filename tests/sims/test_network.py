from collections import deque
from math import inf
from random import Random

import pytest

from p2p import Address, Channel, Packet
from sims.network import Link, Network

KINDS = (b"DATAGRAM", b"STREAM")
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


def test_a_cut_lets_datagrams_pass_one_way_and_streams_neither_way() -> None:
    network, a, b = pair(Link())
    network.cut([A], [B])
    for source, target in ((a, B), (b, A)):
        source.outbox += [Packet(target, name, Channel[name.decode()]) for name in KINDS]
    network.pump(A)
    network.pump(B)
    network.run(1)
    assert not b.got
    assert [data for _, data in a.got] == [b"DATAGRAM"]
    network.heal()
    send(network, a, 1, 100, Channel.STREAM)
    network.run(1)
    assert len(b.got) == 1


def test_a_clogged_link_delivers_everything_when_it_opens_and_the_way_back_stays_open() -> None:
    network, a, b = pair(Link())
    network.clog(A, B, 5.0)
    send(network, a, 3, 100, Channel.DATAGRAM)
    b.outbox.append(Packet(A, b"back", Channel.DATAGRAM))
    network.pump(B)
    network.run(1)
    assert not b.got
    assert [data for _, data in a.got] == [b"back"]
    network.run(9)
    assert [at for at, _ in b.got] == [5.0] * 3


def test_where_streams_are_blocked_datagrams_pass_and_streams_go_out() -> None:
    network, a, b = pair(Link())
    network.block_streams(B, 5.0)
    a.outbox += [Packet(B, name, Channel[name.decode()]) for name in KINDS]
    b.outbox.append(Packet(A, b"out", Channel.STREAM))
    network.pump(A)
    network.pump(B)
    network.run(1)
    assert [data for _, data in b.got] == [b"DATAGRAM"]
    assert [data for _, data in a.got] == [b"out"]
    network.run(5)
    send(network, a, 1, 100, Channel.STREAM)
    network.run(1)
    assert len(b.got) == 2


def test_a_clock_that_leaps_makes_an_alarm_ring_early_and_one_that_runs_slow_late() -> None:
    network, a, b = pair(Link())
    a.alarm, b.alarm = 10.0, 10.0
    network.change_clock(A, jump=6.0)
    network.change_clock(B, rate=0.5)
    network.run(3.9)
    assert not a.woken
    network.run(0.2)
    assert a.woken == [10.0]
    assert network.clock(A).read(network.now) == pytest.approx(10.1)
    network.run(15.8)
    assert not b.woken
    network.run(0.2)
    assert b.woken == [10.0]


def test_a_clock_never_shows_less_than_it_has_shown() -> None:
    network, a, _ = pair(Link())
    rng = Random(0)
    shown = [0.0]
    for _ in range(1000):
        a.alarm = shown[-1] + rng.random()
        network.change_clock(A, jump=rng.choice((0.0, 0.1)), rate=rng.uniform(0.3, 3))
        network.run(rng.random())
        shown += [*a.woken, network.clock(A).read(network.now)]
        a.woken.clear()
    assert shown == sorted(shown)
    with pytest.raises(ValueError, match="forward only"):
        network.change_clock(A, jump=-1.0)


def test_a_machine_that_comes_back_finds_its_clock_as_it_was() -> None:
    network, a, _ = pair(Link())
    network.change_clock(A, jump=100.0)
    network.detach(A)
    network.run(1)
    a.alarm = 102.0
    network.attach(a, A)
    network.run(2)
    assert a.woken == [102.0]


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
