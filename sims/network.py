"""A network in virtual time.

Machines are attached at addresses; their packets cross links that are late, lossy and narrow, and
one event heap decides what happens next. Everything is drawn from one seed, ties are broken by the
order of scheduling, and nothing depends on hashing, so a run replays to the byte; `trace` is a
hash over all that happened.

What is modelled: a sender's packets queue for its uplink; a datagram takes the link's latency,
anew for each, so datagrams overtake one another, and may be lost or arrive twice; a stream takes a
round trip more, never loses anything, arrives in order, and lost segments cost it time instead.
A receiver's downlink is a queue as well, if it is narrow; a NAT lets in only what answers.
Across a partition nothing arrives; a stream, whose acknowledgements travel the other way, needs
both directions. Every host has a clock of its own, which its machine sees as `now`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from heapq import heappop, heappush
from math import inf, isfinite
from random import Random
from struct import pack
from typing import Any

from p2p import Address, Channel, Machine, Packet
from sims.clock import Clock

RETRANSMISSION = 0.2  # seconds that a lost segment costs a stream; Linux's least timeout
SEGMENT = 1460  # bytes of a stream that are lost together
OPEN_FOR = 60.0  # seconds for which a NAT lets answers in; RFC 4787 asks for 120, many give 30

Route = tuple[Address, Address]  # from, to


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What lies between two machines; the same in both directions."""

    latency: tuple[float, float] = (0.01, 0.05)
    """Seconds one way, uniform between the two: a continent."""

    loss: float = 0.0
    """Share of datagrams that vanish."""

    duplicate: float = 0.0
    """Share of datagrams that arrive twice."""

    reorder: float = 0.0
    """Share of datagrams that take three times as long. Others overtake one another as well, where
    the latency is a range."""

    bandwidth: float = 12.5e6
    """Bytes a second of the sender's uplink: 100 Mbit/s."""

    down: float = inf
    """Bytes a second of the receiver's downlink."""

    queue: float = inf
    """Seconds that a datagram waits for the uplink at most; beyond, it is dropped."""

    def __post_init__(self) -> None:
        low, high = self.latency
        if not (0 <= low <= high and isfinite(high)):
            raise ValueError(
                f"latency is two times in seconds, the lower first, not {self.latency}"
            )
        for name in ("loss", "duplicate", "reorder"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is a share from 0 to below 1, not {getattr(self, name)}")
        for name in ("bandwidth", "down"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is above 0 bytes a second, not {getattr(self, name)}")
        if not self.queue >= 0:
            raise ValueError(f"queue is 0 or more seconds, not {self.queue}")


@dataclass(slots=True)
class Host:
    """A machine at its address."""

    machine: Machine[Any]
    address: Address
    clock: Clock
    label: bytes  # of the address, for the trace
    wake: float = inf  # when handle_timeout is due; one heap entry a host
    uplink_free: float = 0.0
    downlink_free: float = 0.0
    stalled: float = 0.0  # until when nothing goes in or out
    frozen: float = 0.0  # until when it does not even notice the time
    sent: int = 0  # bytes, whether or not they arrived
    received: int = 0


class Network:
    """Carries packets between machines and wakes them.

    Args:
        on_event: told every event of every machine, with the address and the time.
        on_step: told the address after everything that a machine was made to do, when its events
            are told and its packets have not left yet.
    """

    def __init__(
        self,
        seed: int,
        link: Link | None = None,
        on_event: Callable[[Address, Any, float], None] = lambda address, event, now: None,
        on_step: Callable[[Address], None] = lambda address: None,
    ) -> None:
        self.now = 0.0
        self.link = link or Link()
        self.routes: Callable[[Address, Address], Link] | None = None  # where links differ
        self.hosts: dict[Address, Host] = {}
        self._rng = Random(f"network {seed}")
        self._on_event = on_event
        self._on_step = on_step
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        self._side: dict[Address, int] = {}  # of the partition; empty while there is none
        self._cut: dict[Route, None] = {}  # where nothing passes
        self._clogged: dict[Route, float] = {}  # until when nothing passes
        self._streamless: dict[Address, float] = {}  # until when no stream gets there
        # By whom behind a NAT, to whom, when: what comes from there since then is an answer.
        self._opened: dict[Address, dict[Address, float]] = {}
        self._clocks: dict[Address, Clock] = {}  # of those that are gone as well
        self._streams: dict[Route, float] = {}  # when the last one arrives
        self._trace = sha256()
        self.events = 0  # packets that arrived, and wake-ups of machines
        self.sent = 0  # bytes, of all hosts, those that are gone included
        self.received = 0

    @property
    def trace(self) -> str:
        """A hash over everything that has happened."""
        return self._trace.hexdigest()

    # commands -------------------------------------------------------------------------------------

    def attach(self, machine: Machine[Any], address: Address) -> None:
        """Put a machine on the network."""
        if address in self.hosts:
            raise ValueError(f"there is a machine at {address} already; detach it first")
        self.hosts[address] = Host(machine, address, self.clock(address), str(address).encode())
        self.pump(address)

    def detach(self, address: Address) -> Host:
        """Take a machine off the network without a word, as a crash does."""
        return self.hosts.pop(address)

    def partition(self, *sides: Iterable[Address]) -> None:
        """Let nothing pass between the sides; who is on none of them is on a side of its own."""
        self._side = {address: number for number, side in enumerate(sides, 1) for address in side}

    def cut(self, sources: Iterable[Address], targets: Iterable[Address]) -> None:
        """Let nothing pass from these to those: half a partition."""
        there = list(targets)
        self._cut |= {(source, target): None for source in sources for target in there}

    def clog(self, source: Address, target: Address, seconds: float) -> None:
        """Hold back what one machine sends another; then all of it arrives at once."""
        self._clogged[source, target] = self.now + seconds

    def block_streams(self, address: Address, seconds: float) -> None:
        """Let no stream reach a machine: a firewall that only datagrams pass."""
        self._streamless[address] = self.now + seconds

    def shelter(self, address: Address) -> None:
        """Put an address behind a NAT: what arrives there unasked does not pass."""
        self._opened[address] = {}

    def clock(self, address: Address) -> Clock:
        """The clock at an address; it goes on whatever happens to the machine."""
        return self._clocks.setdefault(address, Clock())

    def change_clock(self, address: Address, *, jump: float = 0.0, rate: float = 1.0) -> None:
        """Put a clock forward, and let it run at `rate` from now on."""
        self.clock(address).change(self.now, jump, rate)
        self.pump(address)  # its alarm was set by the clock as it was

    def stall(self, address: Address, seconds: float) -> None:
        """Hold back what a machine sends and receives; its timers run. A clogged network card."""
        self.hosts[address].stalled = self.now + seconds

    def freeze(self, address: Address, seconds: float) -> None:
        """Stop a machine for a while. A process that is starved, or a laptop that sleeps."""
        host = self.hosts[address]
        host.stalled = host.frozen = self.now + seconds

    def heal(self) -> None:
        """End the partition and all cuts."""
        self._side = {}
        self._cut = {}

    def call_at(self, at: float, action: Callable[..., None], *arguments: Any) -> None:
        """Have something done at a virtual time."""
        self._count += 1
        heappush(self._heap, (at, self._count, action, arguments))

    def pump(self, address: Address, events: Sequence[Any] = ()) -> None:
        """After something was done to a machine: tell events, send packets, set its alarm."""
        for event in events:
            self._on_event(address, event, self.now)
        host = self.hosts.get(address)
        if host is None:
            return
        self._on_step(address)
        while (packet := host.machine.poll_transmit()) is not None:
            self._send(host, packet)
        due = host.machine.next_timeout()
        at = host.clock.when(due)
        if at != host.wake:
            host.wake = at
            if at < inf:
                self.call_at(max(at, self.now), self._wake, host, at, due)

    def note(self, *facts: object) -> None:
        """Make something part of the trace."""
        self._trace.update(repr((self.now, *facts)).encode())

    # running --------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Let virtual time pass."""
        end = self.now + seconds
        self._run(end, lambda: False)
        self.now = end

    def run_until(self, condition: Callable[[], bool], limit: float) -> bool:
        """Let time pass until the condition holds after some event; False if it does not within
        `limit` seconds."""
        if condition():
            return True
        end = self.now + limit
        if self._run(end, condition):
            return True
        self.now = end
        return False

    def _run(self, end: float, condition: Callable[[], bool]) -> bool:
        while self._heap and self._heap[0][0] <= end:
            at, _, action, arguments = heappop(self._heap)
            self.now = at
            action(*arguments)
            if condition():
                return True
        return False

    # what happens ---------------------------------------------------------------------------------

    def _wake(self, host: Host, at: float, due: float) -> None:
        if self.hosts.get(host.address) is not host or host.wake != at:
            return  # gone, or the alarm was moved
        if host.frozen > self.now:
            self.call_at(host.frozen, self._wake, host, at, due)
            return
        host.wake = inf
        self.events += 1
        self._trace.update(pack(">d", self.now) + host.label)
        now = host.clock.read(self.now, at_least=due)
        self.pump(host.address, host.machine.handle_timeout(now))

    def _send(self, host: Host, packet: Packet) -> None:
        link, size = self._link(host.address, packet.address), len(packet.data)
        host.sent += size
        self.sent += size
        begun = max(self.now, host.uplink_free, host.stalled)
        if begun > self.now + link.queue and packet.channel is Channel.DATAGRAM:
            return
        departure = begun + size / link.bandwidth
        host.uplink_free = departure
        if host.address in self._opened:
            self._opened[host.address][packet.address] = self.now
        if packet.channel is Channel.STREAM:
            route = (host.address, packet.address)
            segments = -(-size // SEGMENT)
            delay = 3 * self._latency(link) + RETRANSMISSION * link.loss * segments**0.5
            at = max(departure + delay, self._streams.get(route, 0.0))
            self._streams[route] = at
            self.call_at(at, self._deliver, host, packet)
            return
        copies = 2 if link.duplicate and self._rng.random() < link.duplicate else 1
        for _ in range(copies):
            if not link.loss or self._rng.random() >= link.loss:
                late = 3 if link.reorder and self._rng.random() < link.reorder else 1
                at = departure + late * self._latency(link)
                self.call_at(at, self._deliver, host, packet)

    def _link(self, source: Address, target: Address) -> Link:
        return self.link if self.routes is None else self.routes(source, target)

    def _latency(self, link: Link) -> float:
        return self._rng.uniform(*link.latency)

    def _deliver(self, sender: Host, packet: Packet) -> None:
        host, source = self.hosts.get(packet.address), sender.address
        if host is None or not self._passes(source, packet):
            return
        held = max(host.stalled, self._clogged_until(source, packet))
        if held > self.now:
            self.call_at(held, self._deliver, sender, packet)
            return
        down = self._link(source, packet.address).down
        if down == inf:
            self._take(sender, packet)
            return
        host.downlink_free = max(self.now, host.downlink_free) + len(packet.data) / down
        self.call_at(host.downlink_free, self._take, sender, packet)

    def _take(self, sender: Host, packet: Packet) -> None:
        host = self.hosts.get(packet.address)
        if host is None:
            return  # it went while the packet stood in its queue
        self.events += 1
        host.received += len(packet.data)
        self.received += len(packet.data)
        self._trace.update(
            b"%b%b>%b%b" % (pack(">d", self.now), sender.label, host.label, packet.data)
        )
        arrived = Packet(sender.address, packet.data, packet.channel)
        self.pump(packet.address, host.machine.receive(arrived, host.clock.read(self.now)))

    def _passes(self, source: Address, packet: Packet) -> bool:
        target, side = packet.address, self._side
        if side and (source not in side or side[source] != side.get(target, 0)):
            return False
        opened = self._opened.get(target)
        if opened is not None and opened.get(source, -inf) < self.now - OPEN_FOR:
            return False
        if packet.channel is Channel.DATAGRAM:
            return (source, target) not in self._cut
        if self._streamless.get(target, 0.0) > self.now:
            return False
        return (source, target) not in self._cut and (target, source) not in self._cut

    def _clogged_until(self, source: Address, packet: Packet) -> float:
        if not self._clogged:
            return 0.0
        until = self._clogged.get((source, packet.address), 0.0)
        if packet.channel is Channel.STREAM:
            until = max(until, self._clogged.get((packet.address, source), 0.0))
        return until
