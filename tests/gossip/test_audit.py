"""The audit log: what it holds, and that nothing in it can be changed unnoticed."""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gossip.access import Access, AccessConfig
from gossip.audit import CHECKPOINT_LINES, CHECKPOINT_SECONDS, DIRECTORY, QUOTA, Audit, check
from gossip.cli import main
from gossip.errors import AuditBroken, ConfigError
from gossip.exchange import LinkReset
from p2p import Address, Peer, PeerBanned, PeerGraylisted, PeerUp, identity
from p2p.identity import Identity

ME, OTHER = Identity.generate(), Identity.generate()
MALLORY = Peer(OTHER.id, Address("10.0.0.6", 7946))


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def written(state_dir: Path, lines: int = 10, **options: Any) -> Path:
    """A log with a checkpoint at its head, so many lines, and one at its end."""
    audit = Audit(state_dir, ME, Clock(), **options)
    for number in range(lines):
        audit.record("ban", who=f"peer {number}")
    audit.close()
    return state_dir / DIRECTORY


def entries(directory: Path) -> list[dict[str, Any]]:
    files = sorted(directory.iterdir())
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


# what it holds ------------------------------------------------------------------------------------


def test_a_log_is_whole_across_restarts_and_for_its_owner_alone(tmp_path: Path) -> None:
    for _ in range(3):
        directory = written(tmp_path)
    found = check(directory, ME.id)
    assert (found.files, found.lines, found.checkpoints, found.unsigned) == (1, 34, 4, 0)
    assert check(directory).signer == str(ME.id)
    (file,) = directory.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert check(file).lines == 34
    kinds = [entry["type"] for entry in entries(directory)]
    assert kinds[:3] == ["checkpoint", "ban", "ban"]


def test_lines_are_signed_by_number_and_by_time(tmp_path: Path) -> None:
    clock = Clock()
    audit = Audit(tmp_path, ME, clock)
    for _ in range(CHECKPOINT_LINES + 5):
        audit.record("ban")
    assert check(tmp_path / DIRECTORY).unsigned == 5
    audit.tick()
    assert check(tmp_path / DIRECTORY).unsigned == 5
    clock.now += CHECKPOINT_SECONDS
    audit.tick()
    assert check(tmp_path / DIRECTORY).unsigned == 0
    size = sum(file.stat().st_size for file in (tmp_path / DIRECTORY).iterdir())
    clock.now += CHECKPOINT_SECONDS
    audit.tick()  # nothing has happened
    assert sum(file.stat().st_size for file in (tmp_path / DIRECTORY).iterdir()) == size
    audit.close()


def test_a_hundred_thousand_that_are_denied_write_ten_lines_a_minute(tmp_path: Path) -> None:
    clock = Clock()
    clock.now -= clock.now % 60
    audit = Audit(tmp_path, ME, clock)
    for _ in range(100_000):
        audit.record("deny", peer="mallory")
        clock.now += 300 / 100_000
    audit.record("join", peer="alice")
    clock.now += 60
    audit.tick()
    audit.close()
    lines = entries(tmp_path / DIRECTORY)
    denied = [entry for entry in lines if entry["type"] == "deny"]
    assert QUOTA * 5 <= len(denied) <= QUOTA * 6 + 1
    assert sum(1 + entry.get("omitted", 0) for entry in denied) == 100_000 + 1
    assert [entry["peer"] for entry in lines if entry["type"] == "join"] == ["alice"]
    check(tmp_path / DIRECTORY, ME.id)


@pytest.mark.parametrize(
    "event",
    [
        PeerUp(MALLORY),
        PeerGraylisted(MALLORY.id, "nonsense"),
        PeerBanned(MALLORY.id, 3600.0, "nonsense"),
        LinkReset(MALLORY, "lost count"),
    ],
    ids=lambda event: type(event).__name__,
)
def test_what_a_peer_can_cause_time_and_again_is_limited_and_what_we_decide_is_not(
    tmp_path: Path, event: object
) -> None:
    clock = Clock()
    audit = Audit(tmp_path, ME, clock)
    access = Access(AccessConfig(), ME.id, [], None, lambda: 0.0, lambda *_: None, audit, clock)
    for _ in range(100):
        access.note(event)
    for _ in range(20):
        access.ban(str(MALLORY.id), 60.0)
    audit.close()
    kinds = Counter(entry["type"] for entry in entries(tmp_path / DIRECTORY))
    assert kinds.pop("ban") == 20
    assert kinds.pop("checkpoint") == 2
    (lines,) = kinds.values()
    assert lines == QUOTA


def test_files_are_of_bounded_size_and_number_and_still_one_chain(tmp_path: Path) -> None:
    directory = written(tmp_path, 200, file_size=2000, files=4)
    directory = written(tmp_path, 200, file_size=2000, files=4)
    files = sorted(directory.iterdir())
    assert len(files) == 4
    assert all(file.stat().st_size < 3000 for file in files)
    found = check(directory, ME.id, files=4)
    assert found.files == 4
    assert found.unsigned == 0
    assert entries(directory)[-2]["who"] == "peer 199"


# tampering ----------------------------------------------------------------------------------------


def broken(directory: Path, **options: Any) -> str:
    with pytest.raises(AuditBroken) as caught:
        check(directory, ME.id, **options)
    return str(caught.value)


def edited(directory: Path, change: Any, name: str = "000001.jsonl") -> Path:
    file = directory / name
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(change(lines)))
    return directory


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda lines: [*lines[:4], lines[4].replace(b"peer 3", b"peer X"), *lines[5:]], 6),
        (lambda lines: [*lines[:4], lines[5], lines[4], *lines[6:]], 5),
        (lambda lines: [*lines[:4], *lines[5:]], 5),
        (lambda lines: [*lines[:4], lines[4], *lines[4:]], 6),
        (lambda lines: [*lines[:4], b" " + lines[4], *lines[5:]], 5),
        (lambda lines: [*lines[:4], b"\n", *lines[4:]], 5),
        (lambda lines: [*lines[:4], b"[1]\n", *lines[5:]], 5),
        (lambda lines: [*lines[:4], b"\xff\n", *lines[5:]], 5),
        (lambda lines: [*lines[:4], b"[" * 50_000 + b"\n", *lines[5:]], 5),
        (lambda lines: lines[1:], 1),
        (lambda lines: [*lines[:-1], lines[-1][:-20]], 12),
    ],
    ids=[
        "edited",
        "reordered",
        "taken out",
        "doubled",
        "spaced",
        "an empty line",
        "no object",
        "no text",
        "nested",
        "beheaded",
        "cut off",
    ],
)
def test_the_first_bad_line_is_named(tmp_path: Path, change: Any, line: int) -> None:
    directory = edited(written(tmp_path), change)
    assert f"000001.jsonl, line {line}: " in broken(directory)


def test_whoever_computes_the_hashes_anew_lacks_the_signature(tmp_path: Path) -> None:
    directory = written(tmp_path)
    (tmp_path / "forged").mkdir()
    forged = Audit(tmp_path / "forged", OTHER, Clock())
    for _ in range(10):
        forged.record("ban", who="nobody")
    forged.close()
    (tmp_path / "forged" / DIRECTORY / "000001.jsonl").rename(directory / "000001.jsonl")
    assert f"line 1: {OTHER.id} signed it" in broken(directory)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    directory = written(tmp_path, 200, file_size=2000)
    files = sorted(directory.iterdir())
    files[3].rename(tmp_path / "aside")
    assert f"{files[3].name} is missing" in broken(directory)
    (tmp_path / "aside").rename(files[3])
    files[0].unlink()
    assert "000001.jsonl is missing" in broken(directory)
    for old, new in zip(files[1:], files, strict=False):
        old.rename(new)
    assert "000001.jsonl, line 1: " in broken(directory)


def test_a_file_that_ends_too_early_is_noticed_at_the_next(tmp_path: Path) -> None:
    directory = edited(written(tmp_path, 200, file_size=2000), lambda lines: lines[:-2])
    assert "000002.jsonl, line 1: " in broken(directory)


# trouble ------------------------------------------------------------------------------------------


def test_half_a_line_from_a_power_cut_is_broken_until_the_node_mends_it(tmp_path: Path) -> None:
    directory = edited(written(tmp_path), lambda lines: [*lines, lines[-1][:30]])
    assert "line 13: it is cut off" in broken(directory)
    written(tmp_path)
    assert check(directory, ME.id).lines == 12 + 1 + 11
    assert entries(directory)[12] | {"cut": 30, "type": "mended"} == entries(directory)[12]


def test_a_log_of_something_else_is_not_written_to(tmp_path: Path) -> None:
    directory = edited(written(tmp_path), lambda lines: [b"hello\n"])
    with pytest.raises(ConfigError, match="not one of the audit log's; move"):
        written(tmp_path)
    assert (directory / "000001.jsonl").read_bytes() == b"hello\n"


def test_a_full_disk_stops_nothing_and_what_is_lost_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    audit = Audit(tmp_path, ME, Clock())
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        return real(descriptor, data[:10])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        for _ in range(5):
            audit.record("ban", who="lost")
    audit.record("ban", who="kept")
    audit.close()
    assert [record.message for record in caplog.records] == [
        "cannot write the audit log: the disk is full; the node goes on"
    ]
    assert entries(tmp_path / DIRECTORY)[1]["lost"] == 5
    check(tmp_path / DIRECTORY, ME.id)


@pytest.mark.parametrize("files", [1, 2], ids=["the first", "a later one"])
def test_a_file_that_was_begun_on_a_full_disk_has_its_head_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: int
) -> None:
    first = tmp_path / DIRECTORY / "000001.jsonl"
    with monkeypatch.context() as patch:
        if files == 1:
            patch.setattr(os, "write", lambda descriptor, data: 0)
        audit = Audit(tmp_path, ME, Clock(), file_size=1000)
        while files == 2 and first.stat().st_size < 1000:
            audit.record("ban", who="fills the first file")
        patch.setattr(os, "write", lambda descriptor, data: 0)
        audit.record("ban", who="lost")
    audit.record("ban", who="kept")
    audit.close()
    assert check(tmp_path / DIRECTORY, ME.id).files == files


# the command --------------------------------------------------------------------------------------


def command(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["audit", "verify", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_the_command_tells_a_whole_log_from_a_broken_one_and_from_none(tmp_path: Path) -> None:
    owner = identity.create(tmp_path / "identity.key")
    audit = Audit(tmp_path, owner)
    audit.record("start")
    audit.close()
    code, out, _ = command("--state-dir", tmp_path, "--json")
    assert code == 0
    assert json.loads(out) == {
        "files": 1,
        "lines": 3,
        "checkpoints": 2,
        "unsigned": 0,
        "signer": str(owner.id),
    }
    file = tmp_path / DIRECTORY / "000001.jsonl"
    assert command(file)[0] == command(file.parent)[0] == 0
    edited(file.parent, lambda lines: [lines[0], lines[2]])
    for where in (["--state-dir", tmp_path], [file], [file.parent]):
        code, out, err = command(*where)
        assert (code, out) == (1, "")
        assert "000001.jsonl, line 2: it is number 2, and 1 should be here" in err
    assert command("--state-dir", tmp_path / "none")[0] == 3
    assert command(tmp_path / "none")[0] == 3
    assert command()[0] == command(file, "--state-dir", tmp_path)[0] == 2
