"""Nodes on a local network to whom nobody has given an address."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from p2p import network_key
from tests.net.lab import Lab


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


def test_a_stranger_is_told_what_is_wrong_and_the_member_is_silent(
    lab: Lab, key: Path, tmp_path: Path
) -> None:
    here, there = lab.machine(), lab.machine()
    lab.switch(here, there)
    member = lab.start(here, "member", "--network-key", key)
    other = tmp_path / "other.key"
    network = network_key.create(other).id.hex()
    stranger = lab.start(there, "stranger", "--network-key", other, "--join", member.address)
    host, _, port = member.address.rpartition(":")
    with there.inside(), socket.socket(type=socket.SOCK_DGRAM) as asking:
        asking.settimeout(0.5)
        asking.sendto(bytes(64), (host, int(port)))
        with pytest.raises(TimeoutError):
            asking.recv(2048)
    stranger.says(f"{member.address} is not in our network")
    stranger.says(f"nobody else of network {network} is on the local network")
    found = member.status()
    assert (found["peers"], found["bytes_sent"]) == ([], 0)
