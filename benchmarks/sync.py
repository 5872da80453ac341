"""What the network costs a training loop: wall time, and the time inside `peer.step()`.

    python benchmarks/sync.py [--check] [--size N] [--syncs N]

A loop of one's own over a model of 25 M parameters, once alone and once with `gossip.join`, where a
second process on this machine runs the same loop and both exchange. A step takes 100 ms: it moves
all parameters, and waits for the rest, as a loop does whose accelerator computes. Every tenth step
syncs. PyTorch has one thread, as in a node.

`overhead` is the wall time of the one loop over that of the other. `step` is measured in the
training thread: its wall time, and its processor time, which is what remains of it on a machine
that does nothing else.

Gates: overhead at most 2 %; `step` between syncs at most 20 microseconds (median).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from statistics import median
from time import perf_counter, sleep, thread_time

import torch
from torch import nn

import gossip

STEP, SYNC_EVERY = 0.1, 10  # seconds; steps
OVERHEAD_GATE, STEP_GATE = 0.02, 20e-6
SIDE = 1024
Measured = tuple[float, float]  # seconds on the wall and on the processor


class Loop:
    """A model, and steps of known length."""

    def __init__(self, size: int, seed: int) -> None:
        torch.manual_seed(seed)
        layers = max(1, round(size / (SIDE * SIDE)))
        self.model = nn.Sequential(*(nn.Linear(SIDE, SIDE, bias=False) for _ in range(layers)))
        self._noise = 1e-3 * torch.randn(SIDE, SIDE)

    @torch.no_grad()
    def step(self) -> None:
        end = perf_counter() + STEP
        for parameter in self.model.parameters():
            parameter.add_(self._noise)
        self._noise = self._noise.roll(1009)  # so that progress differs from step to step
        sleep(max(0.0, end - perf_counter()))


def alone(loop: Loop, steps: int) -> float:
    start = perf_counter()
    for _ in range(steps):
        loop.step()
    return perf_counter() - start


def together(loop: Loop, peer: gossip.Member, steps: int) -> tuple[float, list[Measured]]:
    inside = []
    start = perf_counter()
    for _ in range(steps):
        loop.step()
        wall, processor = perf_counter(), thread_time()
        peer.step()
        inside.append((perf_counter() - wall, thread_time() - processor))
    return perf_counter() - start, inside


def exchanges(peer: gossip.Member) -> int:
    return int(str(peer.status()["exchanges"]))


def other(size: int, address: str) -> None:
    """The second process: learns until it is told to stop."""
    loop = Loop(size, 1)
    with gossip.join(loop.model, [address], sync_every=SYNC_EVERY) as peer:
        while True:
            loop.step()
            peer.step()


def show(name: str, measured: list[Measured]) -> float:
    wall, processor = (median(column) for column in zip(*measured, strict=True))
    most = max(wall for wall, _ in measured)
    print(
        f"  {name}  {wall * 1e3:8.3f} ms   {processor * 1e3:8.3f} processor   {most * 1e3:.3f} most"
    )
    return wall


def measure(size: int, syncs: int) -> bool:
    """Print what there is to know; whether the gates are met."""
    loop, steps = Loop(size, 0), syncs * SYNC_EVERY
    with gossip.join(loop.model, sync_every=SYNC_EVERY) as peer:
        command = [sys.executable, __file__, "--other", peer.address, "--size", str(size)]
        with subprocess.Popen(command) as process:
            try:
                while exchanges(peer) < 3:  # the link is open and the buffers are warm
                    together(loop, peer, SYNC_EVERY)
                before = exchanges(peer)
                wall, inside = together(loop, peer, steps)
                done = exchanges(peer) - before
            finally:
                process.terminate()
    plain = alone(loop, steps)
    # A sync that is late takes place a step later, so the longest tenth is what syncs took.
    inside.sort(reverse=True)
    print(f"{sum(p.numel() for p in loop.model.parameters()):,} parameters, {steps} steps, ")
    print(f"  {done} exchanges completed meanwhile")
    show("step, with sync ", inside[:syncs])
    between = show("step, otherwise ", inside[syncs:])
    overhead = wall / plain - 1
    print(f"  overhead          {overhead:.2%} of {plain:.2f} s")
    share = sum(processor for _, processor in inside) / plain
    print(f"  of it in the training thread's own processor time {share:.2%}")
    met = overhead <= OVERHEAD_GATE and between <= STEP_GATE and done > 0
    gates = f"overhead {OVERHEAD_GATE:.0%}, step {STEP_GATE * 1e6:.0f} us"
    print(f"gates: {gates}: {'met' if met else 'missed'}")
    return met


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true", help="exit 1 if a gate is missed")
    parser.add_argument("--size", type=int, default=25_000_000)
    parser.add_argument("--syncs", type=int, default=10)
    parser.add_argument("--other", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.other:
        other(arguments.size, arguments.other)
    met = measure(arguments.size, arguments.syncs)
    if arguments.check and not met:
        sys.exit(1)


if __name__ == "__main__":
    main()
