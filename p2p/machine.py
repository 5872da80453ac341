"""The one interface of everything that takes part in the network without doing I/O.

A machine is a value-in, value-out object: time and packets come in as arguments, events and
packets come out as return values. Sockets, clocks and threads live in drivers. A driver is this
loop, and nothing else:

    wait until a packet arrives or the clock passes machine.next_timeout()
    events = machine.receive(packet, now)   or   machine.handle_timeout(now)
    while (packet := machine.poll_transmit()) is not None: send it
    tell whoever cares about the events

So the same object runs on real sockets (`gossip.Node`), in virtual time (`sims.Simulation`) and in
a test (`sims.exchange`). `now` is float seconds of any clock that never goes back; a machine only
compares and adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from p2p.packet import Packet

Event = TypeVar("Event", covariant=True)


class Machine(Protocol[Event]):
    """Four verbs and no I/O. After each, call `poll_transmit` until None."""

    def receive(self, packet: Packet, now: float) -> Sequence[Event]:
        """Take a packet from the network. Never raises, whatever the bytes."""
        ...

    def handle_timeout(self, now: float) -> Sequence[Event]:
        """Do what is due. Calling early does nothing."""
        ...

    def poll_transmit(self) -> Packet | None:
        """Hand out the next packet to send, or None when there is none."""
        ...

    def next_timeout(self) -> float:
        """When `handle_timeout` wants to be called: absolute seconds, `inf` for never."""
        ...
