"""How much memory an agent needs beside the model, in multiples of the vector.

    python benchmarks/memory.py [--check] [--size N] [--links N] [--syncs N]

100 M parameters and five links. One process holds the agent that is measured, a second one the far
ends of its links, which share one vector; packets go through a pipe. The unit is the vector in
float32, and what the process had before the agent was made is taken off:

    opening   the peak while all links open; each needs a dense 8-bit snapshot
    peak      while exchanges complete and the model comes and goes, one vector by itself
    steady    between syncs, when that vector has been freed

Linux only: it reads and resets the high-water mark of the process. Gate: steady at most links + 2,
and half a vector for what is kept of the last exchanges and for the allocator.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from gossip.agent import Agent, AgentConfig
from gossip.exchange import Exchange, ExchangeConfig
from gossip.vector import Layout
from p2p import Address, Packet, PayloadReceived, Peer, PeerId, PeerUp, Swarm, SwarmConfig
from p2p.packet import Channel

SLACK = 0.5  # vectors
NOISE = 1 << 20


def peer(index: int) -> Peer:
    return Peer(PeerId(bytes([index + 1]) * 32), Address(f"10.0.0.{index}", 7946))


def layout(size: int) -> Layout:
    return Layout(("weight",), ((size,),), ("float32",))


def say(pipe: Connection, sender: Peer, packet: Packet) -> None:
    pipe.send((sender.address, packet.address, packet.channel.value))
    pipe.send_bytes(packet.data)


def hear(pipe: Connection) -> Iterator[tuple[Address, Packet]]:
    """To whom, and what; until the other side has no more."""
    while (head := pipe.recv()) is not None:
        sender, target, channel = head
        yield target, Packet(sender, pipe.recv_bytes(), Channel(channel))


class FarEnd:
    """A neighbour that answers; all of them share one vector."""

    def __init__(self, index: int, x: Tensor) -> None:
        rng = Random(index)
        self.swarm = Swarm(peer(index), SwarmConfig(), rng, 1)
        self._x, self._rng = x, rng
        self._links: dict[PeerId, Exchange] = {}

    def receive(self, packet: Packet, now: float) -> None:
        for event in self.swarm.receive(packet, now):
            match event:
                case PeerUp(other):
                    me = self.swarm.me.id
                    link = Exchange(
                        me, other, self._x, layout(len(self._x)), ExchangeConfig(), self._rng
                    )
                    self._links[other.id] = link
                    link.open(0, now)
                case PayloadReceived(other, payload):
                    link = self._links[other.id]
                    link.receive(payload, 0, now)
                case _:
                    continue
            while (answer := link.poll_transmit()) is not None:
                self.swarm.send(other.id, answer, now)


def far_ends(pipe: Connection, size: int, links: int) -> None:
    torch.set_num_threads(1)
    x = torch.randn(size, generator=torch.Generator().manual_seed(1))
    ends = {peer(index).address: FarEnd(index, x) for index in range(1, links + 1)}
    contact = peer(0).address
    for end in ends.values():
        end.swarm.join([contact], 0.0)
    while True:
        for end in ends.values():
            while (packet := end.swarm.poll_transmit()) is not None:
                if packet.address == contact:
                    say(pipe, end.swarm.me, packet)
        pipe.send(None)
        for target, packet in hear(pipe):
            if target in ends:
                ends[target].receive(packet, 0.0)


def settle(agent: Agent, pipe: Connection) -> None:
    """Carry packets until the agent has no more."""
    quiet = 0
    while quiet < 2:
        for _, packet in hear(pipe):
            agent.receive(packet, 0.0)
        quiet += 1
        while (out := agent.poll_transmit()) is not None:
            quiet = 0
            say(pipe, agent.me, out)
        pipe.send(None)


def resident(field: str) -> int:
    """Bytes: VmRSS, now; VmHWM, the most since `forget`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"this system does not tell {field}")


def forget() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def measure(size: int, links: int, syncs: int) -> bool:
    """Print what there is to know; whether the gate is met."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    noise = 1e-3 * torch.randn(NOISE, generator=generator)
    context = get_context("spawn")
    pipe, far = context.Pipe()
    process = context.Process(target=far_ends, args=(far, size, links), daemon=True)
    process.start()
    torch.randn(NOISE).sum().item()  # what PyTorch itself allocates once
    before = resident("VmRSS")

    def vectors(field: str) -> float:
        return (resident(field) - before) / (4 * size)

    rng = Random(0)
    swarm = Swarm(peer(0), SwarmConfig(), rng, 1)
    start = torch.randn(size, generator=generator)
    agent = Agent(swarm, layout(size), start, AgentConfig(), rng)
    del start
    forget()
    settle(agent, pipe)
    opening, steady, peak = vectors("VmHWM"), 0.0, 0.0
    assert all(link.ready for link in agent.links.values())
    assert len(agent.links) == links
    for _ in range(syncs):
        forget()
        parameters = agent.handed_out.clone()
        for start_at in range(0, size - NOISE + 1, NOISE):
            parameters[start_at : start_at + NOISE].add_(noise)
        agent.sync(parameters, 1, 0.0)
        settle(agent, pipe)
        del parameters
        steady, peak = max(steady, vectors("VmRSS")), max(peak, vectors("VmHWM"))
    print(f"{size:,} parameters, {links} links, {agent.stats.exchanges} exchanges; in vectors:")
    for name, value in (("opening", opening), ("peak", peak), ("steady", steady)):
        print(f"  {name:8} {value:6.2f}   {value * 4 * size / 2**30:.2f} GiB")
    gate = links + 2 + SLACK
    met = steady <= gate and agent.stats.exchanges >= syncs
    print(f"gate: steady at most {gate}: {'met' if met else 'missed'}")
    process.terminate()
    return met


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true", help="exit 1 if the gate is missed")
    parser.add_argument("--size", type=int, default=100_000_000)
    parser.add_argument("--links", type=int, default=5)
    parser.add_argument("--syncs", type=int, default=10)
    arguments = parser.parse_args()
    met = measure(arguments.size, arguments.links, arguments.syncs)
    if arguments.check and not met:
        sys.exit(1)


if __name__ == "__main__":
    main()
