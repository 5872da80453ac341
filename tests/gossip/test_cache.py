"""The peer cache on disk, and what becomes of it when somebody else has been at it."""

import asyncio
import json
import os
import tempfile
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gossip import cache
from gossip.config import Config
from gossip.host import Host
from gossip.vector import flatten, layout
from p2p import Address, Peer, PeerId, PeerUp


def peer(index: int, host: str = "10.0.0.5") -> Peer:
    return Peer(PeerId(sha256(b"%d" % index).digest()), Address(host, 7946 + index))


def test_what_was_saved_is_read_back_in_its_order(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    saved = (peer(2), peer(0, "2001:db8::1"), peer(1))
    cache.save(path, saved)
    assert cache.load(path) == (saved, None)
    assert os.listdir(tmp_path) == ["peers.json"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_no_more_than_two_hundred_are_kept_and_they_can_be_read_back(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    long = "2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff"
    cache.save(path, [peer(index, long) for index in range(300)])
    loaded, warning = cache.load(path)
    assert loaded == tuple(peer(index, long) for index in range(200))
    assert warning is None


def test_a_node_that_starts_for_the_first_time_has_none_and_no_warning(tmp_path: Path) -> None:
    assert cache.load(tmp_path / "peers.json") == ((), None)


def test_a_file_half_written_by_a_power_cut_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    (tmp_path / "peers.json.new").write_text('{"peers": [')
    cache.save(path, [peer(0)])
    assert cache.load(path) == ((peer(0),), None)


GOOD = {"id": str(peer(0).id), "address": "10.0.0.5:7946"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b'{"peers": 5}',
        b'{"peers": [5]}',
        b"[" * 100_000,
        b" " * 70_000,
        json.dumps({"peers": [GOOD | {"id": "x"}]}).encode(),
        json.dumps({"peers": [GOOD | {"id": 7}]}).encode(),
        json.dumps({"peers": [GOOD | {"address": "example.org:80"}]}).encode(),
        json.dumps({"peers": [GOOD | {"address": "10.0.0.5:0"}]}).encode(),
        json.dumps({"peers": [GOOD | {"address": None}]}).encode(),
    ],
)
def test_a_damaged_file_costs_a_warning_that_names_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "peers.json"
    path.write_bytes(content)
    loaded, warning = cache.load(path)
    assert loaded == ()
    assert warning is not None
    assert str(path) in warning
    assert "anew" in warning


def test_a_pipe_or_a_directory_in_its_place_stops_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    for name in ("pipe", "directory"):
        loaded, warning = cache.load(tmp_path / name)
        assert loaded == ()
        assert warning is not None


@given(st.binary(max_size=200), st.integers(0, 199))
def test_no_damage_raises(garbage: bytes, position: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "peers.json"
        cache.save(path, [peer(0), peer(1)])
        content = path.read_bytes()
        path.write_bytes(content[:position] + garbage)
        loaded, warning = cache.load(path)
        assert loaded or warning or b'"peers": []' in content[:position] + garbage


async def _meet(directory: Path) -> tuple[Peer, Peer]:
    """Two hosts become neighbours and leave; who they were."""
    model = nn.Linear(2, 1)
    async with Host(layout(model), flatten(model), Config()) as seed:
        config = Config(state_dir=directory, join=(str(seed.me.address),))
        async with Host(layout(model), flatten(model), config) as one:
            async for event in one.events():
                if isinstance(event, PeerUp):
                    break
            return one.me, seed.me


def test_a_node_that_leaves_has_saved_whom_it_knew(tmp_path: Path) -> None:
    _, seed = asyncio.run(asyncio.wait_for(_meet(tmp_path), 20))
    assert cache.load(tmp_path / "peers.json") == ((seed,), None)


def test_a_node_with_a_damaged_file_starts_and_asks_those_of_a_good_one(tmp_path: Path) -> None:
    async def start(directory: Path) -> int:
        model = nn.Linear(2, 1)
        async with Host(layout(model), flatten(model), Config(state_dir=directory)) as one:
            await asyncio.sleep(0)  # the file is read by the first step of a task
            await asyncio.sleep(0)
            return len(one.agent.swarm.passive)

    (tmp_path / "peers.json").write_text("{")
    assert asyncio.run(start(tmp_path)) == 0
    cache.save(tmp_path / "peers.json", [peer(0, "127.0.0.1"), peer(1, "127.0.0.1")])
    assert asyncio.run(start(tmp_path)) == 2
