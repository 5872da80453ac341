"""How long the compressor takes on a large vector, and how many bytes it makes of it.

    python benchmarks/codec.py [--check] [--size N] [--threads N]

25 M coordinates, N(0, 1) and Laplace, top-10 % at 3 bits, in one thread, which is what a node gives
PyTorch unless told otherwise; more threads help `copy_` more than they help NumPy. The yardstick of
time is one `copy_` of the vector in the same run, which is what memory allows; that of bytes is the
entropy of the set of kept indices, n H(k / n). Each time is the median of several runs, and copies
are timed between them, so that another process slows both down.

Gates: the indices take at most 1.03 times their entropy, `encode` at most 8 copies, `decode` with
`add_to` at most 6 copies.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from math import log2
from statistics import median
from time import perf_counter

import torch
from torch import Tensor

from gossip.codec import CodecConfig, decode, encode
from gossip.integers import pack

RUNS, COPIES = 7, 5
INDEX_GATE, ENCODE_GATE, DECODE_GATE = 1.03, 8.0, 6.0
CONFIG = CodecConfig(density=0.1, bits=3)


def normal(size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(0))


def laplace(size: int) -> Tensor:
    return torch.empty(size).exponential_(generator=torch.Generator().manual_seed(1)) * torch.sign(
        normal(size)
    )


def seconds(work: Callable[[], object]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start


def index_overhead(indices: Tensor, size: int) -> float:
    """Bytes of the gaps, in multiples of the entropy of the set of indices."""
    share = len(indices) / size
    entropy = size * -(share * log2(share) + (1 - share) * log2(1 - share)) / 8
    gaps = torch.diff(indices, prepend=indices.new_tensor([-1])) - 1
    return len(pack(gaps.numpy())) / entropy


def measure(name: str, vector: Tensor) -> bool:
    """Print what there is to know; whether all gates are met."""
    size, target = len(vector), torch.zeros_like(vector)
    data, patch = encode(vector, CONFIG)
    assert patch.indices is not None
    copies, encodes, decodes = [], [], []
    for _ in range(RUNS):
        copies += [seconds(lambda: target.copy_(vector)) for _ in range(COPIES)]
        encodes.append(seconds(lambda: encode(vector, CONFIG)))
        decodes.append(seconds(lambda: decode(data, size).add_to(target, 0.5)))
    copy, to_encode, to_decode = median(copies), median(encodes), median(decodes)
    overhead = index_overhead(patch.indices, size)
    error = float((vector - patch.dense()).norm() / vector.norm())
    print(f"{name}, {size:,} coordinates, {len(patch.values) / size:.2%} kept")
    print(f"  copy_         {copy * 1e3:7.1f} ms   {8 * size / copy / 1e9:.1f} GB/s")
    print(f"  encode        {to_encode * 1e3:7.1f} ms   {to_encode / copy:.2f} copies")
    print(f"  decode, apply {to_decode * 1e3:7.1f} ms   {to_decode / copy:.2f} copies")
    print(f"  indices       {overhead:7.4f} of their entropy")
    print(f"  message       {len(data):,} bytes, {4 * size / len(data):.1f} times fewer than fp32")
    print(f"  error         {error:7.4f} of the vector's length")
    return (
        overhead <= INDEX_GATE
        and to_encode <= ENCODE_GATE * copy
        and to_decode <= DECODE_GATE * copy
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true", help="exit 1 if a gate is missed")
    parser.add_argument("--size", type=int, default=25_000_000)
    parser.add_argument("--threads", type=int, default=1, help="a node has one by default")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    met = [
        measure("normal", normal(arguments.size)),
        measure("Laplace", laplace(arguments.size)),
    ]
    gates = f"indices {INDEX_GATE}, encode {ENCODE_GATE}, decode {DECODE_GATE}"
    print(f"gates: {gates}: {'met' if all(met) else 'missed'}")
    if arguments.check and not all(met):
        sys.exit(1)


if __name__ == "__main__":
    main()
