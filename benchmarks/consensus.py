"""How many bits a network sends until everybody holds the mean, without any training.

    python benchmarks/consensus.py [--check]

A ring of 25 nodes, x ~ N(0, 1) in 2,000 dimensions, top-10 % at 3 bits. In each round every node
starts one exchange, with its two neighbours in turn, in random order. Counted is every byte that
would go into a datagram: headers, epochs and the snapshots at the beginning. The yardstick is plain
fp32 gossip over the same pairs in the same order. Nothing here has a step size.

Gate: relative error 1e-6 after at most 2.0 Mbit sent per node.
"""

from __future__ import annotations

import argparse
import sys
from random import Random

import torch
from torch import Tensor

from gossip.codec import CodecConfig
from gossip.exchange import Exchange, ExchangeConfig
from gossip.vector import Layout
from p2p import Address, Peer, PeerId
from p2p.messages import TABLE, Payload

NODES, SIZE, TARGET, GATE = 25, 2000, 1e-6, 2.0
HEADER = len(TABLE.encode(Payload(2**32 - 1)))  # of the swarm, around each payload
MOST_ROUNDS = 20_000


def relative_error(vectors: list[Tensor], start: float) -> float:
    return distance(vectors) / start


def distance(vectors: list[Tensor]) -> float:
    stacked = torch.stack(vectors).double()
    return float((stacked - stacked.mean(dim=0)).norm())


def shared_reference(vectors: list[Tensor], codec: CodecConfig, seed: int) -> tuple[int, int]:
    """Bytes sent by all nodes, and rounds."""
    config, layout = ExchangeConfig(codec=codec), Layout(("x",), ((SIZE,),), ("float32",))
    peers = [Peer(PeerId(bytes([i]) * 32), Address("10.0.0.1", i + 1)) for i in range(NODES)]
    links: dict[tuple[int, int], Exchange] = {}
    for i in range(NODES):
        for j in ((i - 1) % NODES, (i + 1) % NODES):
            rng = Random(f"{seed}/{i}/{j}")
            links[i, j] = Exchange(peers[i].id, peers[j], vectors[i], layout, config, rng)
            links[i, j].open(0, 0.0)
    sent = sum(settle(links, i, (i + 1) % NODES) for i in range(NODES))
    start, order = distance(vectors), Random(seed)
    for round_ in range(MOST_ROUNDS):
        for i in order.sample(range(NODES), NODES):
            j = (i + (1 if round_ % 2 else -1)) % NODES
            links[i, j].start(float(round_))
            sent += settle(links, i, j)
        if relative_error(vectors, start) <= TARGET:
            return sent, round_ + 1
    raise SystemExit("no consensus")


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


def plain_gossip(vectors: list[Tensor], seed: int) -> tuple[int, int]:
    """The same pairs, whole vectors in float32."""
    start, order, sent = distance(vectors), Random(seed), 0
    for round_ in range(MOST_ROUNDS):
        for i in order.sample(range(NODES), NODES):
            j = (i + (1 if round_ % 2 else -1)) % NODES
            vectors[i] = vectors[j] = (vectors[i] + vectors[j]) / 2
            sent += 2 * 4 * SIZE
        if relative_error(vectors, start) <= TARGET:
            return sent, round_ + 1
    raise SystemExit("no consensus")


def start_vectors(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(NODES, SIZE, generator=generator).unbind())


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
    print(f"{'seed':>4}  {'fp32 Mbit/node':>14}  {'rounds':>6}  {'ours':>6}  {'rounds':>6}")
    for seed in range(arguments.seeds):
        plain, plain_rounds = plain_gossip(start_vectors(seed), seed)
        vectors = [vector.clone() for vector in start_vectors(seed)]
        sent, rounds = shared_reference(vectors, codec, seed)
        ours = sent * 8 / NODES / 1e6
        worst = max(worst, ours)
        print(
            f"{seed:>4}  {plain * 8 / NODES / 1e6:>14.1f}  {plain_rounds:>6}"
            f"  {ours:>6.2f}  {rounds:>6}"
        )
    print(f"worst {worst:.2f} Mbit per node; gate {GATE}")
    if arguments.check and worst > GATE:
        sys.exit(1)


if __name__ == "__main__":
    main()
