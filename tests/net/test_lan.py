"""Nodes on a local network to whom nobody has given an address."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from p2p import network_key
from tests.net.lab import Lab, Resident

MDNS = f":{5353:04X} "  # as /proc writes the port


def listens_to_mdns(node: Resident) -> bool:
    """Whether a socket on its machine does."""
    node.status()
    table = Path(f"/proc/{node.process.pid}/net/udp").read_text()
    return any(MDNS in line for line in table.splitlines())


def test_nodes_with_one_key_find_each_other_and_who_comes_later(lab: Lab, key: Path) -> None:
    machines = [lab.machine() for _ in range(3)]
    lab.switch(*machines)
    a = lab.start(machines[0], "a", "--network-key", key)
    a.goes_on()
    assert not a.status()["peers"], "it trains alone meanwhile"
    b = lab.start(machines[1], "b", "--network-key", key)
    for node in (a, b):
        node.reaches("exchanges", 5)
    assert a.address.startswith("10.0.1.1:")
    assert [peer["address"] for peer in a.status()["peers"]] == [b.address]
    late = lab.start(machines[2], "late", "--network-key", key)
    late.reaches("exchanges", 5)
    for node in (a, b, late):
        node.reaches("peers", 2)


def test_a_stranger_is_told_that_nobody_is_there_and_the_member_is_silent(
    lab: Lab, key: Path, tmp_path: Path
) -> None:
    here, there = lab.machine(), lab.machine()
    lab.switch(here, there)
    member = lab.start(here, "member", "--network-key", key)
    other = tmp_path / "other.key"
    network = network_key.create(other).id.hex()
    stranger = lab.start(there, "stranger", "--network-key", other)
    stranger.says(f"no link yet; of network {network} nobody is on the local network")
    host, _, port = member.address.rpartition(":")
    with there.inside(), socket.socket(type=socket.SOCK_DGRAM) as asking:
        asking.settimeout(0.5)
        asking.sendto(bytes(64), (host, int(port)))
        with pytest.raises(TimeoutError):
            asking.recv(2048)
    stranger.ends()
    guest = lab.start(there, "guest", "--network-key", other, "--join", member.address)
    guest.says(f"{member.address} is not in our network")
    found = member.status()
    assert (found["peers"], found["bytes_sent"]) == ([], 0)


def test_only_a_node_that_others_may_reach_says_that_it_is_there(lab: Lab, key: Path) -> None:
    machines = [lab.machine() for _ in range(4)]
    lab.switch(*machines)
    with_key = ["--network-key", key]
    announced = lab.start(machines[0], "a", *with_key)
    on_loopback = lab.start(machines[1], "b", *with_key, "--listen", "127.0.0.1:0")
    without_key = lab.start(machines[2], "c")
    unwilling = lab.start(machines[3], "d", *with_key, "--no-lan")
    assert listens_to_mdns(announced)
    for node in (on_loopback, without_key, unwilling):
        assert not listens_to_mdns(node)


def test_a_node_on_two_networks_is_found_on_both(lab: Lab, key: Path) -> None:
    both, one, other = (lab.machine() for _ in range(3))
    lab.switch(both, one, network=1)
    lab.switch(both, other, network=2)
    middle = lab.start(both, "middle", "--network-key", key)
    for name, machine in (("one", one), ("other", other)):
        lab.start(machine, name, "--network-key", key).reaches("exchanges", 5)
    middle.reaches("peers", 2)


def test_a_node_that_listens_at_one_address_is_found_there_only(lab: Lab, key: Path) -> None:
    both, one, other = (lab.machine() for _ in range(3))
    lab.switch(both, one, network=1)
    lab.switch(both, other, network=2)
    middle = lab.start(both, "middle", "--network-key", key, "--listen", "10.0.2.1:0")
    lab.start(other, "other", "--network-key", key).reaches("exchanges", 5)
    lonely = lab.start(one, "one", "--network-key", key)
    lonely.says("nobody is on the local network")
    assert len(middle.status()["peers"]) == 1


def test_without_a_network_it_is_said_once_and_training_goes_on(lab: Lab, key: Path) -> None:
    node = lab.start(lab.machine(), "a", "--network-key", key)
    node.says("cannot look for others on the local network")
    node.goes_on()
