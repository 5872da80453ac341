"""A node that nobody can reach unless it has spoken first."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.daemons import DIGITS
from tests.net.lab import Lab

# As a home router does it: what begins inside leaves under the router's address, what begins
# outside does not get in.
HOME_ROUTER = """
table ip home {{
    chain out {{
        type nat hook postrouting priority srcnat;
        oifname {outside} masquerade
    }}
    chain through {{
        type filter hook forward priority filter;
        iifname {outside} ct state new,invalid drop
    }}
}}
"""


@pytest.mark.usefixtures("filters")
def test_a_node_behind_a_nat_exchanges_with_a_public_one_in_both_directions(
    lab: Lab, key: Path
) -> None:
    public, home = lab.machine(), lab.machine()
    router = lab.router(public, home)
    router.nft(HOME_ROUTER.format(outside=lab.ends[public]))
    a = lab.start(public, "a", "--network-key", key, "--no-lan", "--listen", "0.0.0.0:7946")
    a.status()
    b = lab.start(home, "b", "--network-key", key, "--no-lan", "--join", "10.1.1.2:7946")
    for node in (a, b):
        node.reaches("exchanges", 20)
        assert "begins anew" not in node.said


@pytest.mark.usefixtures("filters")
def test_updates_larger_than_a_datagram_reach_a_node_behind_a_nat(lab: Lab, key: Path) -> None:
    public, home = lab.machine(), lab.machine()
    router = lab.router(public, home)
    router.nft(HOME_ROUTER.format(outside=lab.ends[public]))
    wide = ["--network-key", key, "--no-lan"]
    a = lab.start(public, "a", *wide, "--listen", "0.0.0.0:7946", target=DIGITS)
    a.reaches("samples", 64)  # so that the newcomer needs a snapshot
    b = lab.start(home, "b", *wide, "--join", "10.1.1.2:7946", target=DIGITS)
    for node in (a, b):
        node.reaches("exchanges", 5)
