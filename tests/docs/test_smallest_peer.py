"""A peer written from docs/wire-format.md alone, section "The smallest implementation": it knows
msgpack and nothing of ours, and learns with an agent of ours."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from hashlib import sha256
from random import Random
from typing import Any

import msgpack
import numpy as np
import torch
from numpy.typing import NDArray

from gossip.agent import Agent, AgentConfig
from gossip.vector import Layout
from p2p import Address, Channel, Packet, Peer, PeerId, Swarm, SwarmConfig

LAYOUT = b'[["weight",[2,4],"float32"],["bias",[2],"float32"],0]'
SIZE = 10
Vector = NDArray[np.float32]


def varint(data: bytes) -> tuple[int, bytes]:
    number = shift = 0
    for place, byte in enumerate(data, 1):
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return number, data[place:]
    raise ValueError("a varint does not end")


def row(data: bytes, count: int) -> tuple[list[int], bytes]:
    way, low, data = data[0] >> 5, data[0] & 31, data[1:]
    size = -(-count * low // 8)
    bits = "".join(f"{byte:08b}"[::-1] for byte in data[:size])
    numbers = [int(bits[i * low : (i + 1) * low][::-1] or "0", 2) for i in range(count)]
    data = data[size:]
    if way == 1:
        length, data = varint(data)
        unary = "".join(f"{byte:08b}"[::-1] for byte in data[:length])
        high = [len(zeros) for zeros in unary.split("1")[:count]]
        return [h << low | n for h, n in zip(high, numbers, strict=True)], data[length:]
    assert way == 0, "so few numbers need no zstandard"
    return numbers, data


def decompress(data: bytes) -> Vector:
    flags, data = data[0], data[1:]
    bits, indices = (flags & 7) + 1, list(range(SIZE))
    if not flags & 8:
        kept, data = varint(data)
        gaps, data = row(data, kept)
        indices = list(np.cumsum([gap + 1 for gap in gaps]) - 1)
    table = np.frombuffer(data[: 1 << bits], "<u2").astype(np.uint32) << 16
    magnitudes = table.view(np.float32)
    codes, rest = row(data[1 << bits :], len(indices))
    assert not rest
    vector = np.zeros(SIZE, np.float32)
    for index, code in zip(indices, codes, strict=True):
        vector[index] = -magnitudes[code >> 1] if code & 1 else magnitudes[code >> 1]
    return vector


def compress(vector: Vector) -> bytes:
    """All coordinates at 8 bits, a magnitude for each; wasteful, and within the format."""
    upper = np.zeros(128, "<u2")
    upper[:SIZE] = np.abs(vector).view(np.uint32) >> 16
    codes = bytes(place << 1 | int(value < 0) for place, value in enumerate(vector))
    return bytes((7, SIZE, 0)) + upper.tobytes() + bytes((8,)) + codes


class Smallest:
    """One link, one vector. Datagrams in, datagrams out."""

    me = (b"\x01" * 32, bytes((10, 0, 0, 9)), 7946)

    def __init__(self, x: Vector) -> None:
        self.x, self.r = x, np.zeros(SIZE, np.float32)
        self.token, self.theirs, self.source, self.n = 77, 0, 5, -1
        self.epoch, self.lower = 0, False
        self.kept: tuple[Any, ...] = ()

    def ask(self) -> bytes:
        return bytes(msgpack.packb([1, 1, self.me, None, 1, 1, self.token, 1, True]))

    def on(self, data: bytes) -> Iterator[bytes]:
        unpacker = msgpack.Unpacker()
        unpacker.feed(data)
        tag, *fields = unpacker.unpack()
        if tag == 2:
            (peer, _, _), _, _, self.theirs, echo = fields
            assert echo == self.token
            self.lower = self.me[0] < peer
            yield msgpack.packb([4, self.theirs, 1, False])
        elif tag == 4:
            yield msgpack.packb([5, self.theirs, fields[1]])
        elif tag == 6:
            for said, body in self.agent(data[unpacker.tell() :]):
                yield msgpack.packb([6, self.theirs]) + msgpack.packb(said) + body

    def agent(self, data: bytes) -> Iterator[tuple[Any, bytes]]:
        unpacker = msgpack.Unpacker()
        unpacker.feed(data)
        tag, *fields = unpacker.unpack()
        if tag == 1:
            source, target, answer, layout = fields[:4]
            assert layout == sha256(LAYOUT).digest()
            pair = (self.source, source) if self.lower else (source, self.source)
            self.epoch = int.from_bytes(sha256(struct.pack(">QQ", *pair)).digest()[:4], "big")
            if answer or target != self.source:
                yield [1, self.source, source, target != self.source, layout, 0, []], b""
        elif tag == 3:
            yield from self.half(*fields, body=data[unpacker.tell() :])

    def half(
        self, epoch: int, n: int, answer: bool, digest: Any, attempt: int, body: bytes
    ) -> Iterator[tuple[Any, bytes]]:
        assert epoch == self.epoch
        if n == self.n + 1:
            assert digest in (None, sha256(self.r.tobytes()).digest()[:8])
            theirs, mine = decompress(body), b""
            if n == 0:
                self.r = theirs
            else:
                mine = compress(self.x - self.r)
                ours = decompress(mine)
                for half in (ours, theirs) if self.lower else (theirs, ours):
                    self.r += np.float32(0.5) * half
                self.x += np.float32(0.5) * theirs
                self.x -= np.float32(0.5) * ours
            self.n, self.kept = n, (n, mine)
        if n == self.n and not answer:
            yield [3, self.epoch, n, True, None, attempt], self.kept[1]


def test_a_peer_written_from_the_page_learns_with_an_agent() -> None:
    address = Address("10.0.0.1", 7946)
    me, rng = Peer(PeerId(b"\x02" * 32), address), Random(0)
    swarm = Swarm(me, SwarmConfig(), rng, 1)
    layout, start = Layout.decode(LAYOUT), torch.linspace(-1, 1, SIZE)
    agent = Agent(swarm, layout, start, AgentConfig(), rng, samples=64)
    peer = Smallest(np.linspace(3, -2, SIZE, dtype=np.float32))
    total = agent.x.numpy() + peer.x
    waiting, now = [peer.ask()], 0.0
    for _ in range(400):
        while waiting:
            here = Address("10.0.0.9", 7946)
            agent.receive(Packet(here, waiting.pop(0), Channel.DATAGRAM), now)
        if agent.links:
            agent.sync(agent.handed_out.clone(), 0, now)
        agent.handle_timeout(now)
        while (packet := agent.poll_transmit()) is not None:
            waiting += peer.on(packet.data)
        now += 0.05
    assert peer.n > 50
    assert np.allclose(agent.x.numpy(), peer.x, atol=1e-3)
    assert np.allclose(agent.x.numpy() + peer.x, total, atol=1e-4)
