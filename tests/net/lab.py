"""Machines of a test's own: network namespaces, joined by switches and routers.

Nothing of it touches the machine's real interfaces: cables (veth pairs) are laid between namespaces
only. A thread can step into a namespace, and what it starts or connects to then is there.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from tests.daemons import Node

LIBC = ctypes.CDLL(None, use_errno=True)
NAMES = count()

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


def run(*command: object, stdin: str | None = None) -> str:
    """Run a command that must succeed."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, input=stdin)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@cache
def missing(*programs: str) -> str | None:
    """Why there can be no lab here; None if there can."""
    for program in programs:
        if shutil.which(program) is None:
            return f"there is no program {program}"
    if os.geteuid() != 0:
        return "network namespaces need root"
    name = f"gossip-{os.getpid()}-try"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode != 0:
        return f"no network namespaces: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", name], check=True)
    return None


class Machine:
    """A network namespace."""

    def __init__(self, stack: ExitStack) -> None:
        self.name = f"gossip-{os.getpid()}-{next(NAMES)}"
        self.addresses: list[str] = []
        run("ip", "netns", "add", self.name)
        stack.callback(run, "ip", "netns", "delete", self.name)
        self.ip("link", "set", "lo", "up")

    def ip(self, *arguments: object) -> str:
        """Run `ip` in there."""
        return run("ip", "-n", self.name, *arguments)

    def nft(self, rules: str) -> None:
        """Load nftables rules."""
        run("ip", "netns", "exec", self.name, "nft", "-f", "-", stdin=rules)

    def sysctl(self, name: str, value: object) -> None:
        """Set a setting of the kernel's network."""
        run("ip", "netns", "exec", self.name, "sysctl", "-qw", f"{name}={value}")

    @contextmanager
    def inside(self) -> Iterator[None]:
        """This thread is on this machine meanwhile."""
        with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{self.name}") as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())


def _enter(namespace: int) -> None:
    if LIBC.setns(namespace, 0) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class Resident(Node):
    """A node on a machine."""

    def __init__(self, machine: Machine, *arguments: Any, **popen: Any):
        self.machine = machine
        with machine.inside():
            super().__init__(*arguments, **popen)

    def status(self) -> dict[str, Any]:
        with self.machine.inside():
            return super().status()


class Lab:
    """Everything that a test sets up, and that goes with it."""

    def __init__(self, home: Path, stack: ExitStack) -> None:
        self.home = home
        self._stack = stack
        (home / "plain.py").write_text(PLAIN)

    def machine(self) -> Machine:
        """One more, with nothing but loopback."""
        return Machine(self._stack)

    def cable(self, one: Machine, other: Machine, *addresses: str) -> tuple[str, str]:
        """Connect two machines, and give the first its addresses; the names of both ends."""
        ends = f"a{next(NAMES)}", f"b{next(NAMES)}"
        one.ip("link", "add", ends[0], "type", "veth", "peer", ends[1], "netns", other.name)
        for address in addresses:
            one.ip("address", "add", address, "dev", ends[0], "nodad")
            one.addresses.append(address.partition("/")[0])
        for machine, end in zip((one, other), ends, strict=True):
            machine.ip("link", "set", end, "up")
        return ends

    def switch(self, *machines: Machine, network: int = 1) -> None:
        """Put machines on one local network, 10.0.`network`.0/24."""
        switch = self.machine()
        switch.ip("link", "add", "lan", "type", "bridge", "mcast_snooping", 0)
        switch.ip("link", "set", "lan", "up")
        for number, machine in enumerate(machines, 1):
            _, end = self.cable(machine, switch, f"10.0.{network}.{number}/24")
            switch.ip("link", "set", end, "master", "lan")

    def router(self, *machines: Machine) -> Machine:
        """Put each on a network of its own, 10.1.N.0/30, and a router between them."""
        router = self.machine()
        router.sysctl("net.ipv4.ip_forward", 1)
        for number, machine in enumerate(machines, 1):
            _, end = self.cable(machine, router, f"10.1.{number}.2/30")
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
