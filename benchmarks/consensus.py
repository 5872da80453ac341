"""How many bits a network sends until everybody holds the mean, without any training.

    python benchmarks/consensus.py [--check]

A ring of 25 nodes, x ~ N(0, 1) in 2,000 dimensions, top-10 % at 3 bits. In each round every node
starts one exchange, with its two neighbours in turn, in random order. Counted is every byte that
would go into a datagram: headers, epochs and the snapshots at the beginning. The yardstick is plain
fp32 gossip over the same pairs in the same order. Nothing here has a step size.

The error is the mean squared distance to the mean, relative to its value at the start, which is how
CHOCO-Gossip's figures are drawn (Koloskova, Stich, Jaggi 2019, section 5.2). The columns show when
it reaches 1e-6 and, a thousand times closer in distance, 1e-12.

Gate: 1e-6 after at most 2.0 Mbit sent per node.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import count, islice
from random import Random

import torch
from torch import Tensor

from gossip.codec import CodecConfig
from gossip.exchange import Exchange, ExchangeConfig
from gossip.vector import Layout
from p2p import Address, Peer, PeerId
from p2p.messages import TABLE, Payload

NODES, SIZE, GATE = 25, 2000, 2.0
TARGETS = (1e-6, 1e-12)
HEADER = len(TABLE.encode(Payload(2**32 - 1)))  # of the swarm, around each payload
MOST_ROUNDS = 20_000


def squared_distance(vectors: list[Tensor]) -> float:
    stacked = torch.stack(vectors).double()
    return float((stacked - stacked.mean(dim=0)).square().sum())


def shared_reference(vectors: list[Tensor], codec: CodecConfig, seed: int) -> Iterator[float]:
    """After each round, Mbit sent per node so far."""
    config, layout = ExchangeConfig(codec=codec), Layout(("x",), ((SIZE,),), ("float32",))
    peers = [Peer(PeerId(bytes([i]) * 32), Address("10.0.0.1", i + 1)) for i in range(NODES)]
    links: dict[tuple[int, int], Exchange] = {}
    for i in range(NODES):
        for j in ((i - 1) % NODES, (i + 1) % NODES):
            rng = Random(f"{seed}/{i}/{j}")
            links[i, j] = Exchange(peers[i].id, peers[j], vectors[i], layout, config, rng)
            links[i, j].open(0, 0.0)
    sent = sum(settle(links, i, (i + 1) % NODES) for i in range(NODES))
    order = Random(seed)
    for round_ in count():
        for i in order.sample(range(NODES), NODES):
            j = (i + (1 if round_ % 2 else -1)) % NODES
            links[i, j].start(float(round_))
            sent += settle(links, i, j)
        yield sent * 8 / NODES / 1e6


def settle(links: dict[tuple[int, int], Exchange], i: int, j: int) -> int:
    """Carry payloads between two ends until neither has more; returns bytes."""
    sent, moved = 0, True
    while moved:
        moved = False
        for here, there in ((i, j), (j, i)):
            while (payload := links[here, there].poll_transmit()) is not None:
                moved = True
                sent += len(payload) + HEADER
                links[there, here].receive(memoryview(payload), 0, 0.0)
    return sent


def plain_gossip(vectors: list[Tensor], seed: int) -> Iterator[float]:
    """The same pairs, whole vectors in float32."""
    order, sent = Random(seed), 0
    for round_ in count():
        for i in order.sample(range(NODES), NODES):
            j = (i + (1 if round_ % 2 else -1)) % NODES
            vectors[i] = vectors[j] = (vectors[i] + vectors[j]) / 2
            sent += 2 * 4 * SIZE
        yield sent * 8 / NODES / 1e6


def cost(rounds: Iterator[float], vectors: list[Tensor]) -> list[float]:
    """Mbit sent per node until each target is met."""
    start, found = squared_distance(vectors), []
    for mbit in islice(rounds, MOST_ROUNDS):
        while (
            len(found) < len(TARGETS) and squared_distance(vectors) <= TARGETS[len(found)] * start
        ):
            found.append(mbit)
        if len(found) == len(TARGETS):
            return found
    raise SystemExit(f"no consensus after {MOST_ROUNDS} rounds")


def start_vectors(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(SIZE, generator=generator) for _ in range(NODES)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true", help="exit 1 if the gate is missed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--density", type=float, default=0.1)
    parser.add_argument("--bits", type=int, default=3)
    arguments = parser.parse_args()
    codec = CodecConfig(density=arguments.density, bits=arguments.bits)
    torch.set_num_threads(1)
    worst = 0.0
    print("Mbit sent per node until the error is below 1e-6, and below 1e-12")
    for seed in range(arguments.seeds):
        plain, ours = start_vectors(seed), start_vectors(seed)
        fp32 = cost(plain_gossip(plain, seed), plain)
        here = cost(shared_reference(ours, codec, seed), ours)
        worst = max(worst, here[0])
        print(
            f"seed {seed}   fp32 gossip {fp32[0]:5.2f} {fp32[1]:6.2f}"
            f"   shared reference {here[0]:5.2f} {here[1]:6.2f}"
        )
    print(f"worst {worst:.2f} Mbit per node; gate {GATE}")
    if arguments.check and worst > GATE:
        sys.exit(1)


if __name__ == "__main__":
    main()
