"""I/O: the peers worth meeting again after a restart, in a file of the state directory.

    {"peers": [{"id": "mfrggzdf...", "address": "10.0.0.5:7946"}, ...]}

JSON, the best peer first (`Swarm.known`). It is a hint and nothing else: whatever is wrong with the
file costs a warning and what it held, never the start. Entries from a file that somebody else has
written harm no more than a neighbour's lies would, since everybody proves who he is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from p2p import Address, Peer, PeerId, files

MOST = 200  # peers
MAX_FILE = 64 << 10  # bytes; 200 peers take 25 KiB


def save(path: Path, peers: Sequence[Peer]) -> None:
    """Write the file, complete or not at all. Raises OSError; the one that was there stays."""
    entries = [{"id": str(peer.id), "address": str(peer.address)} for peer in peers[:MOST]]
    files.replace(path, json.dumps({"peers": entries}).encode())


def load(path: Path) -> tuple[tuple[Peer, ...], str | None]:
    """The peers in the file, none if there is none; and what is wrong with it, for an operator."""
    remedy = "going on without it; it will be written anew"
    try:
        # Without O_NONBLOCK a named pipe in the place of the file would block us.
        flags = os.O_RDONLY | os.O_NONBLOCK
        with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as file:
            content = file.read(MAX_FILE + 1)
    except FileNotFoundError:
        return (), None
    except OSError as error:
        return (), f"cannot read {path}: {error.strerror}; {remedy}"
    if len(content) > MAX_FILE:
        return (), f"{path} is larger than {MAX_FILE} bytes; {remedy}"
    try:
        entries = json.loads(content)["peers"]
        return tuple(_peer(entry) for entry in entries[:MOST]), None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return (), f"{path} is damaged: {error!r}; {remedy}"


def _peer(entry: Any) -> Peer:
    address = Address.parse(entry["address"])
    if not address.port:
        raise ValueError(f"{address} has no port")
    # Spelled as addresses from the wire are; a name would be no address.
    host = str(ip_address(address.host))
    return Peer(PeerId.parse(entry["id"]), Address(host, address.port))
