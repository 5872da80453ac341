"""Two machines and nothing between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from p2p import Machine, Packet, Peer

Event = TypeVar("Event", covariant=True)


class Reachable(Machine[Event], Protocol[Event]):
    """A machine that says where it is."""

    @property
    def me(self) -> Peer:
        """Who this is."""
        ...


def exchange(a: Reachable[Event], b: Reachable[Event], now: float) -> Sequence[Event]:
    """Carry packets between two machines, at once, until neither has more; returns all events.

    What is addressed to anybody else is dropped.
    """
    events: list[Event] = []
    by_address = {a.me.address: a, b.me.address: b}
    moved = True
    while moved:
        moved = False
        for sender in (a, b):
            while (packet := sender.poll_transmit()) is not None:
                moved = True
                receiver = by_address.get(packet.address)
                if receiver is not None and receiver is not sender:
                    arrived = Packet(sender.me.address, packet.data, packet.channel)
                    events += receiver.receive(arrived, now)
    return events
