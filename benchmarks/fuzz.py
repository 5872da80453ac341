"""Hostile packets for an agent, chosen by coverage: python benchmarks/fuzz.py --packets 10000000

Needs atheris (`pip install -e '.[fuzz]'`). Inputs are those of `sims.fuzz`: honest messages with
something wrong in them, PACKETS of them for one agent. What makes `receive` raise, or a queue grow
beyond its bound, is written to `crash-...` in the current directory, and this file with that name
as its argument plays it again. Prints the slowest packets at the end; there is no gate for that.
"""

from __future__ import annotations

import os
import sys
from heapq import heappush, heappushpop
from pathlib import Path
from time import perf_counter, process_time

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))

with atheris.instrument_imports(include=["p2p", "gossip"]):
    import torch

    from sims.checker import check_bounds
    from sims.fuzz import Victim, drain

PACKETS = 32  # for one agent
INPUT = 1024  # bytes of decisions
LIMIT = 1e-3  # seconds of processor time that a packet should take at most
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


class Fuzz:
    """Counts packets until there were enough."""

    def __init__(self, packets: int) -> None:
        self._packets = packets
        self._count = 0
        self._late = 0
        self._began = perf_counter()
        self._slowest: list[tuple[float, bytes]] = []

    def one(self, data: bytes) -> None:
        victim, choices = Victim(), Choices(data)
        for _ in range(PACKETS):
            if not choices.left:
                return
            packet = victim.packet(choices)
            began = process_time()
            victim.agent.receive(packet, victim.now)
            self._note(process_time() - began, packet.data)
            check_bounds(victim.agent)
            drain(victim.agent)
            victim.wait(choices, victim.agent)

    def _note(self, seconds: float, data: bytes) -> None:
        self._count += 1
        self._late += seconds > LIMIT
        push = heappush if len(self._slowest) < SLOWEST else heappushpop
        push(self._slowest, (seconds, data))
        if self._count == self._packets:
            self._report()

    def _report(self) -> None:
        seconds = perf_counter() - self._began
        print(f"{self._count} packets in {seconds:.0f} s, {self._late} of them took above 1 ms of")
        print("processor time, tracing of coverage included; the slowest:")
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
