"""Machines of a test's own: network namespaces, and the nodes that run there.

A thread can step into a namespace; what it starts or connects to then is there.
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
from typing import Any

from tests.daemons import Node

LIBC = ctypes.CDLL(None, use_errno=True)
NAMES = count()


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
        run("ip", "netns", "add", self.name)
        stack.callback(run, "ip", "netns", "delete", self.name)
        self.ip("link", "set", "lo", "up")

    def ip(self, *arguments: object) -> str:
        """Run `ip` in there."""
        return run("ip", "-n", self.name, *arguments)

    def tc(self, *arguments: object) -> None:
        """Shape traffic."""
        run("tc", "-n", self.name, *arguments)

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
