"""What a hostile neighbour might send: honest messages with something wrong in them.

Random bytes hardly get past the first check of a parser. So every input begins as a message that a
swarm or an exchange would believe, with the right tokens and epochs, and is then damaged a few
times: a field gets a value from elsewhere, is left out or is added; bytes are changed, taken out,
put in or cut off. Who decides is a `Source`: hypothesis in the tests, atheris in
`benchmarks/fuzz.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Protocol

import msgpack
import torch

from gossip import messages as gossip
from gossip.agent import Agent, AgentConfig
from gossip.codec import CodecConfig, encode
from gossip.exchange import SNAPSHOT, Exchange, digest
from gossip.vector import Layout
from p2p import Address, Channel, Machine, Packet, Peer, PeerId, Swarm, SwarmConfig
from p2p import messages as p2p
from p2p.link import State
from sims.pair import exchange

SIZE = 64  # coordinates
LAYOUT = Layout(("w",), ((SIZE,),), ("float32",))
MOST_DAMAGE = 3
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 255, 2**16, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**64 - 1),
    *(-(2**63), 0.0, float("nan"), float("inf"), "", "text", b"", bytes(4), bytes(16), bytes(32)),
    *([], [[]], [[[[[[[[]]]]]]]], [None] * 9, [0] * 300, bytes(900)),
)


class Source(Protocol):
    """Makes decisions."""

    def number(self, most: int) -> int:
        """From 0 to `most`, both included."""
        ...

    def binary(self, most: int) -> bytes:
        """At most that many bytes."""
        ...


def peer(index: int) -> Peer:
    """One of a few."""
    return Peer(PeerId(bytes([index]) * 32), Address(f"10.0.0.{index}", 7946))


class Victim:
    """An agent with a neighbour, a request under way and a link that is not confirmed yet."""

    def __init__(self) -> None:
        self.now = 0.0
        self.agent, self.neighbour = (self._agent(index) for index in (1, 2))
        self.neighbour.swarm.join([self.agent.me.address], self.now)
        exchange(self.agent, self.neighbour, self.now)
        self.agent.sync(self.agent.x.clone(), 1, self.now)
        exchange(self.agent, self.neighbour, self.now)
        self.agent.swarm.join([peer(3).address], self.now)
        request = p2p.Request(p2p.VERSION, peer(4), None, 1, 1, 44, 3, False)
        packet = Packet(peer(4).address, p2p.TABLE.encode(request), Channel.DATAGRAM)
        self.agent.receive(packet, self.now)
        drain(self.agent)
        self.samples = self._samples()
        self.halves = self._halves()

    def _agent(self, index: int) -> Agent:
        rng = Random(index)
        x = torch.randn(SIZE, generator=torch.Generator().manual_seed(index))
        swarm = Swarm(peer(index), SwarmConfig(), rng, 1)
        return Agent(swarm, LAYOUT, x, AgentConfig(merge="mean"), rng)

    @property
    def exchange(self) -> Exchange:
        """The agent's end of the link with its neighbour."""
        return self.agent.links[self.neighbour.me.id]

    def _samples(self) -> list[bytes]:
        """Every message of a swarm, for each of the agent's links."""
        samples = []
        peers = tuple(peer(index) for index in range(4, 12))
        for link in self.agent.swarm._links._all.values():
            token = link.mine
            who = link.peer or peer(3)
            state = link.state is State.UP
            messages: list[p2p.Message] = [
                p2p.Request(p2p.VERSION, who, peer(1).id, 1, 9, link.theirs, 3, state),
                p2p.Accept(who, 1, 9, link.theirs, token),
                p2p.Refuse(token, peers),
                p2p.Ping(token, 5, True),
                p2p.Pong(token, link.watch.probe),
                p2p.Payload(token),
                p2p.Disconnect(token, False, peer(5)),
                p2p.Unknown(link.theirs),
                p2p.Walk(token, peer(6), 6),
                p2p.Shuffle(token, peer(7), 1, 1, peers),
                p2p.Shuffled(1, peers),
                p2p.PingRequest(token, 7, peer(8)),
                p2p.Vouch(token, link.watch.probe, False),
                p2p.Check(7, peer(1).id, peer(3)),
                p2p.Checked(7),
            ]
            samples += [p2p.TABLE.encode(message) for message in messages]
        return samples

    def _halves(self) -> list[bytes]:
        """Every message of an exchange."""
        link, other = self.exchange, self.neighbour.links[self.agent.me.id]
        assert link._tag is not None
        assert link.reference is not None
        sparse, _ = encode(self.agent.x - link.reference, CodecConfig())
        dense, _ = encode(self.agent.x, SNAPSHOT)
        n = link.completed
        messages: list[tuple[gossip.Message, bytes]] = [
            (gossip.Open(other._mine.source, link._mine.source, True, LAYOUT.hash, 1, ()), b""),
            (gossip.Open(77, link._mine.source, True, LAYOUT.hash, 1, (1, 2, 3)), b""),
            (gossip.Open(77, 0, False, bytes(32), 1, ()), b""),
            (gossip.Challenge(other._mine.source, link._tag), b""),
            (gossip.Challenge(78, link._mine.source), b""),
            (gossip.Half(link._tag, n, False, None), sparse),
            (gossip.Half(link._tag, n + 1, False, None), sparse),
            (gossip.Half(link._tag, n + 1, True, digest(link.reference)), dense),
            (gossip.Half(link._tag, 0, False, None), dense),
            (gossip.Describe(), Layout(("v",), ((3, 3),), ("float32",)).encode()),
        ]
        return [gossip.TABLE.encode(message, body) for message, body in messages]

    def payload(self, source: Source) -> bytes:
        """Something for `Exchange.receive`."""
        return damaged(source, _one_of(source, self.halves))

    def packet(self, source: Source) -> Packet:
        """Something for `Agent.receive` or `Swarm.receive`."""
        if source.number(2):
            data = damaged(source, _one_of(source, self.samples))
        else:
            token = next(iter(self.agent.swarm.neighbours.values()), None)
            payload = p2p.Payload(token.mine if token else 1)
            data = p2p.TABLE.encode(payload, self.payload(source))
        sender = peer(2 + source.number(3))
        known = sender.id if source.number(1) else None
        channel = Channel.STREAM if source.number(3) == 0 else Channel.DATAGRAM
        return Packet(sender.address, data, channel, known)

    def wait(self, source: Source, machine: Machine[Any]) -> None:
        """Let a little time pass for the agent, or for its swarm alone."""
        self.now += source.number(20) / 8
        machine.handle_timeout(self.now)
        drain(machine)


def drain(machine: Machine[Any]) -> None:
    """Lose what a machine wants to send."""
    while machine.poll_transmit() is not None:
        pass


# damage -------------------------------------------------------------------------------------------


def damaged(source: Source, data: bytes) -> bytes:
    """The same message with a few things wrong, or none."""
    for _ in range(source.number(MOST_DAMAGE)):
        data = _one_of(source, DAMAGES)(source, data)
    return data


def _field(source: Source, data: bytes) -> bytes:
    """Another value in a field, at any depth."""

    def change(values: list[Any]) -> None:
        at = source.number(len(values) - 1)
        if isinstance(values[at], list) and values[at] and source.number(1):
            change(values[at])
        elif isinstance(values[at], int) and source.number(1):
            values[at] = max(values[at] + source.number(2) - 1, -1)
        else:
            values[at] = _one_of(source, ODD)

    return _rewritten(data, change)


def _shape(source: Source, data: bytes) -> bytes:
    """A field more or less."""

    def change(values: list[Any]) -> None:
        if source.number(1):
            values.insert(source.number(len(values)), _one_of(source, ODD))
        else:
            del values[source.number(len(values) - 1)]

    return _rewritten(data, change)


def _rewritten(data: bytes, change: Callable[[list[Any]], None]) -> bytes:
    unpacker = msgpack.Unpacker(strict_map_key=False)
    unpacker.feed(data)
    try:
        values = unpacker.unpack()
        body = data[unpacker.tell() :]
        if isinstance(values, list) and values:
            change(values)
            return bytes(msgpack.packb(values)) + body
    except (TypeError, ValueError, OverflowError, msgpack.exceptions.UnpackException):
        pass  # damaged already, beyond what msgpack reads
    return data


def _byte(source: Source, data: bytes) -> bytes:
    at = source.number(max(len(data) - 1, 0))
    return data[:at] + bytes([source.number(255)]) + data[at + 1 :]


def _insert(source: Source, data: bytes) -> bytes:
    at = source.number(len(data))
    return data[:at] + source.binary(16) + data[at:]


def _remove(source: Source, data: bytes) -> bytes:
    at = source.number(len(data))
    return data[:at] + data[at + 1 + source.number(8) :]


def _cut(source: Source, data: bytes) -> bytes:
    return data[: source.number(len(data))]


def _repeat(source: Source, data: bytes) -> bytes:
    at = source.number(len(data))
    return data[:at] + data[at : at + 32] * (1 + source.number(63)) + data[at:]


def _nest(source: Source, data: bytes) -> bytes:
    at = source.number(min(len(data), 8))
    return data[:at] + b"\x91" * source.number(1023) + data[at:]  # an array of an array of ...


def _replace(source: Source, data: bytes) -> bytes:
    return source.binary(64)


DAMAGES = (
    _field,
    _field,
    _field,
    _shape,
    _byte,
    _byte,
    _insert,
    _remove,
    _cut,
    _repeat,
    _nest,
    _replace,
)


def _one_of(source: Source, options: Any) -> Any:
    return options[source.number(len(options) - 1)]
