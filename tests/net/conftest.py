"""Tests on machines of their own."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from p2p import network_key
from tests.net.lab import Lab
from tests.net.machine import missing


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """Machines and networks that go with the test."""
    if reason := missing("ip"):
        pytest.skip(reason)
    with ExitStack() as stack:
        yield Lab(tmp_path, stack)


@pytest.fixture
def filters() -> None:
    """For tests whose routers filter packets."""
    if reason := missing("ip", "nft"):
        pytest.skip(reason)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "net.key"
    network_key.create(path)
    return path
