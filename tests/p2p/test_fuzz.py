"""Hostile bytes for every machine: honest messages, damaged. See `sims.fuzz`."""

import tracemalloc
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sims.checker import check_bounds
from sims.fuzz import Victim, drain

PACKETS = 12  # for one victim
OVERHEAD = 128 << 10  # bytes beside those that grow with the input: a header of 1 KiB, which may be
# a thousand empty lists, an error, a model of 64 numbers

few = settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class Choices:
    """Decisions of hypothesis, which knows how to make a failure smaller."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data

    def number(self, most: int) -> int:
        return self._data.draw(st.integers(0, most))

    def binary(self, most: int) -> bytes:
        return self._data.draw(st.binary(max_size=most))


@given(st.data())
@few
def test_no_packet_makes_an_agent_raise_or_its_queues_grow(data: st.DataObject) -> None:
    victim, choices = Victim(), Choices(data)
    for _ in range(PACKETS):
        victim.agent.receive(victim.packet(choices), victim.now)
        check_bounds(victim.agent)
        drain(victim.agent)
        victim.wait(choices, victim.agent)


@given(st.data())
@few
def test_no_packet_makes_a_swarm_raise(data: st.DataObject) -> None:
    victim, choices = Victim(), Choices(data)
    swarm = victim.agent.swarm
    for _ in range(PACKETS):
        swarm.receive(victim.packet(choices), victim.now)
        victim.wait(choices, swarm)


@given(st.data())
@few
def test_no_payload_makes_an_exchange_raise_or_its_model_infinite(data: st.DataObject) -> None:
    victim, choices = Victim(), Choices(data)
    link = victim.exchange
    for _ in range(PACKETS):
        link.receive(memoryview(victim.payload(choices)), 1, victim.now)
        assert len(link._outbox) <= 2
        assert bool(victim.agent.x.isfinite().all())
        while link.poll_transmit() is not None:
            pass


class Dice:
    """Decisions of chance, for what would take too long to trace otherwise."""

    def __init__(self, seed: int) -> None:
        self._rng = Random(seed)

    def number(self, most: int) -> int:
        return self._rng.randint(0, most)

    def binary(self, most: int) -> bytes:
        return self._rng.randbytes(self._rng.randint(0, most))


def test_no_packet_takes_more_memory_than_four_times_its_size() -> None:
    for seed in range(60):
        victim, dice = Victim(), Dice(seed)
        for _ in range(PACKETS):
            packet = victim.packet(dice)
            tracemalloc.start()
            victim.agent.receive(packet, victim.now)
            _, taken = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            drain(victim.agent)
            assert taken <= 4 * len(packet.data) + OVERHEAD, packet
