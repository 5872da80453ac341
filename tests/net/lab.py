"""Machines, and the switches and routers between them.

Nothing of it touches the machine's real interfaces: cables (veth pairs) are laid between namespaces
only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.net.machine import NAMES, Machine, Resident
from tests.net.nursery import Nursery

# A learner without an optimizer: PyTorch spends three seconds when the first one is made.
PLAIN = """
import time
import torch
from torch import nn
from gossip.vector import flatten, layout, load

class Plain:
    def __init__(self):
        torch.manual_seed(0)
        self.model = nn.Linear(4, 2)
        self.inputs = torch.randn(64, 4)
        self.layout = layout(self.model)

    def parameters(self):
        return flatten(self.model)

    def load(self, parameters):
        load(self.model, parameters)

    def train(self):
        time.sleep(0.02)
        self.model(self.inputs).square().mean().backward()
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter -= 0.1 * parameter.grad
                parameter.grad = None
        return len(self.inputs)

    def evaluate(self):
        return {}

def learner():
    return Plain()
"""


class Lab:
    """Everything that a test sets up, and that goes with it."""

    def __init__(self, home: Path, stack: ExitStack) -> None:
        self.home = home
        self.ends: dict[Machine, str] = {}  # the router's interface to each
        self._stack = stack
        (home / "plain.py").write_text(PLAIN)

    def machine(self) -> Machine:
        """One more, with nothing but loopback."""
        return Machine(self._stack)

    def cable(self, one: Machine, address: str, other: Machine) -> str:
        """Connect two machines, and give the first an address; the name of the other's end."""
        mine, theirs = f"a{next(NAMES)}", f"b{next(NAMES)}"
        one.ip("link", "add", mine, "type", "veth", "peer", theirs, "netns", other.name)
        one.ip("address", "add", address, "dev", mine)
        one.ip("link", "set", mine, "up")
        other.ip("link", "set", theirs, "up")
        return theirs

    def switch(self, *machines: Machine, network: int = 1) -> None:
        """Put machines on one local network, 10.0.`network`.0/24."""
        switch = self.machine()
        switch.ip("link", "add", "lan", "type", "bridge", "mcast_snooping", 0)
        switch.ip("link", "set", "lan", "up")
        for number, machine in enumerate(machines, 1):
            end = self.cable(machine, f"10.0.{network}.{number}/24", switch)
            switch.ip("link", "set", end, "master", "lan")

    def router(self, *machines: Machine) -> Machine:
        """Put each on a network of its own, 10.1.N.0/30, and a router between them."""
        router = self.machine()
        router.sysctl("net.ipv4.ip_forward", 1)
        for number, machine in enumerate(machines, 1):
            end = self.cable(machine, f"10.1.{number}.2/30", router)
            self.ends[machine] = end
            router.ip("address", "add", f"10.1.{number}.1/30", "dev", end)
            machine.ip("route", "add", "default", "via", f"10.1.{number}.1")
        return router

    def start(
        self, machine: Machine, name: str, *arguments: Any, target: str = "", **popen: Any
    ) -> Resident:
        """Start a node on a machine."""
        target = target or f"{self.home / 'plain.py'}:learner"
        node = Resident(machine, self.home, name, target, *arguments, **popen)
        self._stack.callback(node.kill)
        return node

    def nursery(self, nodes: Iterable[tuple[Machine, str, Sequence[object]]]) -> Nursery:
        """Start many nodes: for each its machine, its name, and what follows `gossip run`."""
        nursery = Nursery(self.home, list(nodes))
        self._stack.callback(nursery.kill)
        return nursery
