"""Small files survive what a power cut or a full disk does to them."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from p2p import files
from tests.power import Disk


@contextmanager
def full() -> Iterator[None]:
    """No file may grow beyond 100 bytes meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_power_cut_while_a_file_is_replaced_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    path, disk, seen = tmp_path / "bans.json", Disk(tmp_path), set()
    calls, done = 0, False
    while not done:
        files.replace(path, b"old")
        done = disk.until_cut(calls, lambda: files.replace(path, b"new"))
        seen.add(path.read_bytes())
        calls += 1
    assert calls > 4
    assert seen == {b"old", b"new"}
    files.replace(path, b"newer")
    assert names(tmp_path) == ["bans.json"]


def test_a_power_cut_while_a_file_gets_its_name_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    path, disk, seen = tmp_path / "model.gossip", Disk(tmp_path), set()
    calls, done = 0, False
    while not done:
        files.replace(path, b"old")
        fresh = tmp_path / "model.gossip.new"

        def export(fresh: Path = fresh) -> None:
            fresh.write_bytes(b"new")
            files.settle(fresh, path)

        done = disk.until_cut(calls, export)
        seen.add(path.read_bytes())
        calls += 1
    assert seen == {b"old", b"new"}


def test_a_power_cut_while_a_file_is_created_leaves_all_of_it_or_nothing(tmp_path: Path) -> None:
    path, disk = tmp_path / "identity.key", Disk(tmp_path)
    calls, done = 0, False
    while not done:
        done = disk.until_cut(calls, lambda: files.create(path, b"secret"))
        assert not path.exists() or path.read_bytes() == b"secret"
        files.sweep(path)
        assert names(tmp_path) in ([], ["identity.key"])
        path.unlink(missing_ok=True)
        calls += 1
    assert calls > 4


def test_a_full_disk_keeps_what_was_there_and_no_half_of_what_was_not(tmp_path: Path) -> None:
    path = tmp_path / "bans.json"
    files.replace(path, b"old")
    with full():
        with pytest.raises(OSError, match="File too large"):
            files.replace(path, bytes(1000))
        with pytest.raises(OSError, match="File too large"):
            files.create(tmp_path / "identity.key", bytes(1000))
    assert names(tmp_path) == ["bans.json"]
    assert path.read_bytes() == b"old"


def test_every_directory_that_is_made_is_on_the_disk_before_anything_is_put_into_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").resolve())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    files.make_directory(tmp_path / "a" / "b")
    assert synced == [tmp_path, tmp_path / "a"]
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    files.make_directory(tmp_path / "a" / "b")
    assert len(synced) == 2
