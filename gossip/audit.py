"""I/O: the audit log: who came, who was refused, what was decided, in a form that shows tampering.

    STATE_DIR/audit/000001.jsonl, 000002.jsonl, ...; one JSON object a line:
    {"n": 7, "t": 1700000000.123, "prev": sha256 of line 6, "type": "join", ...}

Each line names the hash of the one before, across files, so what is changed, moved or taken out
breaks the chain. A checkpoint is a line that the node's identity has signed; it vouches for all
lines before it, so nobody else can make a new chain. There is one at the start, every 1,000 lines,
every 10 minutes in which anything happened, at the head of each file, and at a stop. What can be
cut off unnoticed is what follows the last checkpoint, and whole files at the end: whoever must
exclude that keeps the hash of a later line elsewhere.

What others can cause without end is written ten times a minute and counted beyond that. A full
disk is reported and stops nothing; the next line that can be written says how many are lost.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from gossip.errors import AuditBroken, ConfigError
from p2p import PeerId
from p2p.files import make_directory, sync_directory
from p2p.identity import Identity, verify

log = logging.getLogger("gossip")

DIRECTORY = "audit"
FILE_SIZE, FILES = 64 << 20, 16  # bytes, and how many of them are kept
CHECKPOINT_LINES, CHECKPOINT_SECONDS = 1000, 600.0
LIMITED = ("banned", "deny", "graylist", "handshake", "join", "reset")  # types that peers cause
QUOTA = 10  # lines of each of these in a minute
NOTHING = "0" * 64  # the hash before the first line
TAIL = 1 << 16  # bytes; no line is longer

_SIGNED = b"gossip-learning 1 audit "


@dataclass(slots=True)
class _Quota:
    minute: int = -1
    written: int = 0
    omitted: int = 0


class Audit:
    """The log of one node, to be appended to.

    Args:
        clock: Unix seconds.

    Raises ConfigError: the directory cannot be used, or its last line is not one of ours.
    """

    def __init__(
        self,
        state_dir: Path,
        identity: Identity,
        clock: Callable[[], float] = time.time,
        *,
        file_size: int = FILE_SIZE,
        files: int = FILES,
    ) -> None:
        self._directory = state_dir / DIRECTORY
        self._identity = identity
        self._clock = clock
        self._file_size, self._files = file_size, files
        self._quotas = {type_: _Quota() for type_ in LIMITED}
        self._lost = 0
        self._unsigned = 0  # lines since the last checkpoint
        self._signed_at = clock()
        self._n, self._prev, self._number, self._size = 0, NOTHING, 0, 0
        try:
            make_directory(self._directory)
            cut = self._resume()
            self._open()
            if self._size == 0:
                self._checkpoint()
        except OSError as error:
            raise ConfigError(
                f"cannot use {self._directory}: {error.strerror}; give another --state-dir"
            ) from None
        if cut:
            self.record("mended", cut=cut)

    def record(self, type_: str, **data: object) -> None:
        """Append a line, unless there were too many of this type; never raises OSError."""
        quota = self._quotas.get(type_)
        if quota is not None:
            minute = int(self._clock() // 60)
            if minute != quota.minute:
                quota.minute, quota.written = minute, 0
            if quota.written >= QUOTA:
                quota.omitted += 1
                return
            quota.written += 1
            if quota.omitted:
                data["omitted"], quota.omitted = quota.omitted, 0
        self._write(type_, data)
        if self._unsigned >= CHECKPOINT_LINES:
            self._checkpoint()

    def tick(self) -> None:
        """What is due by time; call it every few seconds."""
        minute = int(self._clock() // 60)
        for type_, quota in self._quotas.items():
            if quota.omitted and quota.minute != minute:
                self.record(type_)  # says how many
        if self._unsigned and self._clock() >= self._signed_at + CHECKPOINT_SECONDS:
            self._checkpoint()

    def close(self) -> None:
        """Sign, and wait until everything is on the disk."""
        self._checkpoint()
        with suppress(OSError):
            os.fsync(self._file)
        os.close(self._file)

    # lines ----------------------------------------------------------------------------------------

    def _write(self, type_: str, data: dict[str, object]) -> None:
        try:
            if self._size >= self._file_size:
                self._rotate()
            if self._size == 0 and type_ != "checkpoint":
                self._append("checkpoint", self._head())  # every file begins with one
            self._append(type_, data | ({"lost": self._lost} if self._lost else {}))
            self._lost = 0
        except OSError as error:
            if not self._lost:
                log.error("cannot write the audit log: %s; the node goes on", error)
            self._lost += 1
            with suppress(OSError):
                os.ftruncate(self._file, self._size)  # half a line would break the chain

    def _append(self, type_: str, data: dict[str, object]) -> None:
        entry: dict[str, object] = {
            "n": self._n,
            "t": round(self._clock(), 3),
            "prev": self._prev,
            "type": type_,
        }
        entry |= data
        if type_ == "checkpoint":
            signature = self._identity.sign(_SIGNED + _dump(entry))
            entry["signature"] = signature.hex()
        line = _dump(entry)
        if os.write(self._file, line + b"\n") != len(line) + 1:
            raise OSError("the disk is full")
        self._size += len(line) + 1
        self._n += 1
        self._prev = sha256(line).hexdigest()
        self._unsigned = 0 if type_ == "checkpoint" else self._unsigned + 1

    def _checkpoint(self) -> None:
        self._signed_at = self._clock()
        self._write("checkpoint", self._head())

    def _head(self) -> dict[str, object]:
        return {"file": self._number, "signer": str(self._identity.id)}

    # files ----------------------------------------------------------------------------------------

    def _resume(self) -> int:
        """Go on behind the last line; returns how many bytes of half a line were cut off."""
        found = numbered(self._directory)
        if not found:
            self._number = 1
            return 0
        self._number, path = found[-1]
        with open(path, "r+b") as file:
            size = file.seek(0, os.SEEK_END)
            self._size = _end(file, size)
            file.truncate(self._size)  # a power cut leaves half a line, or zeros
            file.seek(max(self._size - TAIL, 0))
            whole = file.read()
        if not whole and len(found) > 1:
            whole = found[-2][1].read_bytes()[-TAIL:]
        if whole:
            last = whole.splitlines()[-1]
            try:
                self._n = int(json.loads(last)["n"]) + 1
            except (ValueError, LookupError, TypeError):
                raise ConfigError(
                    f"the last line of {path} is not one of the audit log's; move "
                    f"{self._directory} away to begin another"
                ) from None
            self._prev = sha256(last).hexdigest()
        return size - self._size

    def _open(self) -> None:
        path = self._directory / f"{self._number:06}.jsonl"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        sync_directory(self._directory)

    def _rotate(self) -> None:
        full = self._file
        os.fsync(full)
        self._number += 1
        try:
            self._open()
        except OSError:
            self._number -= 1  # the full one goes on growing until a new one can be had
            raise
        os.close(full)
        self._size = 0
        for _, path in numbered(self._directory)[: -self._files]:
            path.unlink()


def _end(file: BinaryIO, size: int) -> int:
    """Where the last whole line ends."""
    end = size
    while end > 0:
        start = max(end - TAIL, 0)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


# verifying ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Verified:
    """What is known about a log that is whole."""

    files: int = 0
    lines: int = 0
    checkpoints: int = 0
    unsigned: int = 0  # lines after the last checkpoint
    signer: str = ""
    prev: str = field(default=NOTHING, repr=False)
    next: int | None = field(default=None, repr=False)  # number of the next line


def numbered(directory: Path) -> list[tuple[int, Path]]:
    """The files of a log, in order, with their numbers."""
    paths = directory.glob("*.jsonl")
    return sorted((int(path.stem), path) for path in paths if path.stem.isdecimal())


def latest(directory: Path, most: int) -> list[dict[str, Any]]:
    """The last lines of a log, unchecked, the oldest first; what is no line is left out."""
    found: list[dict[str, Any]] = []
    for _, path in reversed(numbered(directory)):
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - TAIL, 0))
            lines = file.read().splitlines()[size > TAIL :]  # the first of these is cut
        for line in reversed(lines):
            with suppress(ValueError):
                found.append(json.loads(line))
            if len(found) == most:
                return found[::-1]
    return found[::-1]


def check(path: Path, signer: PeerId | None = None, *, files: int = FILES) -> Verified:
    """Verify a log, or one file of it, signed by that peer, or by whoever the first line names.

    Raises AuditBroken, which names the first bad line; ConfigError: there is no log.
    """
    verified = Verified(signer=str(signer) if signer else "")
    if path.is_dir():
        found = numbered(path)
        if found and found[0][0] > 1:
            if len(found) < files:
                raise AuditBroken(f"{path}: {found[0][0] - 1:06}.jsonl is missing")
        elif found:
            verified.next = 0
    else:
        found = [(0, path)]
    if not found:
        raise ConfigError(f"there is no audit log in {path}; a node keeps one in its --state-dir")
    for position, (number, file) in enumerate(found):
        expected = found[0][0] + position
        if number != expected:
            raise AuditBroken(f"{path}: {expected:06}.jsonl is missing")
        _check_file(file, number, verified)
    return verified


def _check_file(file: Path, number: int, verified: Verified) -> None:
    verified.files += 1
    place = 0
    try:
        for place, line in _lines(file):
            entry = _check_line(line, verified)
            if place == 1 and (entry["type"] != "checkpoint" or number not in (0, entry["file"])):
                raise ValueError("it is not the head of this file")
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from None
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise AuditBroken(f"{file}, line {place}: {error}") from None
    if place == 0:
        raise AuditBroken(f"{file} is empty")


def _check_line(line: bytes, verified: Verified) -> dict[str, Any]:
    """Raises ValueError, LookupError or TypeError for a line that is not right."""
    if not line.endswith(b"\n"):
        raise ValueError("it is cut off, by a power cut or by somebody")
    entry: dict[str, Any] = json.loads(line)
    if _dump(entry) != line[:-1]:
        raise ValueError("it is not as it was written")
    if verified.next is None:
        verified.next, verified.prev = int(entry["n"]), str(entry["prev"])
    if entry["n"] != verified.next:
        raise ValueError(f"it is number {entry['n']}, and {verified.next} should be here")
    if entry["prev"] != verified.prev:
        raise ValueError("the line before it is not the one that was there when it was written")
    verified.lines += 1
    verified.unsigned += 1
    verified.next += 1
    verified.prev = sha256(line[:-1]).hexdigest()
    if entry["type"] == "checkpoint":
        _check_signature(entry, verified)
    return entry


def _check_signature(entry: dict[str, Any], verified: Verified) -> None:
    verified.signer = verified.signer or str(entry["signer"])
    if entry["signer"] != verified.signer:
        raise ValueError(f"{entry['signer']} signed it, not {verified.signer}")
    signed = {name: value for name, value in entry.items() if name != "signature"}
    signature = bytes.fromhex(entry["signature"])
    if not verify(PeerId.parse(verified.signer), signature, _SIGNED + _dump(signed)):
        raise ValueError("its signature is wrong")
    verified.checkpoints += 1
    verified.unsigned = 0


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    with open(file, "rb") as stream:
        yield from enumerate(iter(lambda: stream.readline(TAIL), b""), 1)


def _dump(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, separators=(",", ":"), default=str).encode()
