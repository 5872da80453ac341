"""Hostile packets for an agent, chosen by coverage: python benchmarks/fuzz.py --packets 10000000

Needs atheris (`pip install -e '.[fuzz]'`). Inputs are those of `sims.fuzz`: honest messages with
something wrong in them, PACKETS of them for one agent. What makes `receive` raise, a queue grow
beyond its bound, or a packet take more than a millisecond is written to `crash-...` in the current
directory, and this file with that name as its argument plays it again.

Time is that of the processor, tracing of coverage included. A packet that takes too long is played
again to agents in the same state, and the shortest time counts, so that neither other processes nor
the garbage collector make it fail. The slowest packets are printed at the end.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from heapq import heappush, heappushpop
from itertools import islice
from math import inf
from pathlib import Path
from time import perf_counter, process_time, sleep

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))

with atheris.instrument_imports(include=["p2p", "gossip"]):
    import torch

    from p2p import Packet
    from sims.checker import check_bounds
    from sims.fuzz import Victim, drain

PACKETS = 32  # for one agent
INPUT = 1024  # bytes of decisions
LIMIT = 1e-3  # seconds of processor time that a packet may take
PAUSES = (*[0.0] * 8, *[1.0] * 12)  # seconds before each new measurement of one that took longer
SLOWEST = 5  # that are shown


class Choices:
    """Decisions of libFuzzer."""

    def __init__(self, data: bytes) -> None:
        self._provider = atheris.FuzzedDataProvider(data)

    def number(self, most: int) -> int:
        return int(self._provider.ConsumeIntInRange(0, most))

    def binary(self, most: int) -> bytes:
        return bytes(self._provider.ConsumeBytes(self.number(most)))

    @property
    def left(self) -> bool:
        return bool(self._provider.remaining_bytes())


class TooSlow(Exception):
    """A packet takes more processor time than it may, whenever it is played."""


def played(data: bytes) -> Iterator[tuple[float, Packet]]:
    """Give the packets that an input stands for to a new agent; each with its seconds."""
    victim, choices = Victim(), Choices(data)
    for _ in range(PACKETS):
        if not choices.left:
            return
        packet = victim.packet(choices)
        began = process_time()
        victim.agent.receive(packet, victim.now)
        yield process_time() - began, packet
        check_bounds(victim.agent)
        drain(victim.agent)
        victim.wait(choices, victim.agent)


def shortest(data: bytes, place: int) -> float:
    """Seconds that the packet at that place of an input takes: the least of some attempts, the last
    ones seconds apart, since another process on the same core slows this one for as long as it
    runs."""
    least = inf
    for pause in PAUSES:
        sleep(pause)
        seconds, _ = next(islice(played(data), place, None))
        least = min(least, seconds)
        if least <= LIMIT:
            break
    return least


class Fuzz:
    """Counts packets until there were enough."""

    def __init__(self, packets: int) -> None:
        self._packets = packets
        self._count = 0
        self._began = perf_counter()
        self._slowest: list[tuple[float, bytes]] = []

    def one(self, data: bytes) -> None:
        """Play an input to an agent. Raises what `receive` raises, and TooSlow."""
        for place, (seconds, packet) in enumerate(played(data)):
            if seconds > LIMIT:
                seconds = shortest(data, place)
            self._note(seconds, packet.data)
            if seconds > LIMIT:
                raise TooSlow(f"{1e3 * seconds:.2f} ms for {packet}")

    def _note(self, seconds: float, data: bytes) -> None:
        self._count += 1
        push = heappush if len(self._slowest) < SLOWEST else heappushpop
        push(self._slowest, (seconds, data))
        if self._count == self._packets:
            self._report()

    def _report(self) -> None:
        seconds = perf_counter() - self._began
        print(f"{self._count} packets in {seconds:.0f} s, none took above 1 ms; the slowest:")
        for seconds, data in sorted(self._slowest, reverse=True):
            print(f"  {1e3 * seconds:.2f} ms, {len(data)} bytes: {data[:32].hex()}")
        sys.stdout.flush()
        os._exit(0)  # libFuzzer knows no other way to stop after so many packets


def main() -> None:
    arguments, packets = sys.argv[:], 10_000_000
    if "--packets" in arguments:
        at = arguments.index("--packets")
        packets = int(arguments[at + 1])
        del arguments[at : at + 2]
    torch.set_num_threads(1)
    fuzz = Fuzz(packets)
    # No memory limit: PyTorch alone takes more than libFuzzer allows by default.
    options = [f"-max_len={INPUT}", "-len_control=0", "-rss_limit_mb=0", "-print_final_stats=0"]
    atheris.Setup([arguments[0], *options, *arguments[1:]], fuzz.one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
