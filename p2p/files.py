"""I/O: files that are there completely or not at all, for their owner alone (mode 0600)."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from p2p.errors import IdentityError


def create(path: Path, content: bytes) -> None:
    """Write a new file. Raises FileExistsError, and OSError; then there is nothing new."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        _write(temporary, content)
        os.link(temporary, path)  # unlike rename, never over another
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def sweep(path: Path) -> None:
    """Remove what `create` left of this file when it was killed, a copy of a key for one.

    Only for who knows that nobody else creates it now. Raises OSError.
    """
    for temporary in path.parent.glob(f".{path.name}.*"):
        temporary.unlink(missing_ok=True)


def make_directory(path: Path) -> None:
    """Make a directory for its owner alone, and those above it; all of them survive a power cut.

    Raises OSError.
    """
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    sync_directory(path.parent)


def replace(path: Path, content: bytes) -> None:
    """Write a file, or write it anew. Raises OSError; then the one that was there stays."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    try:
        _write(fresh, content)
    except OSError:
        fresh.unlink(missing_ok=True)  # a full disk is not helped by half a file
        raise
    os.replace(fresh, path)
    sync_directory(path.parent)


def settle(fresh: Path, path: Path) -> None:
    """Give a written file its name, over another's, once it is on the disk. Raises OSError."""
    descriptor = os.open(fresh, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(fresh, path)
    sync_directory(path.parent)


def read_secret(path: Path, most: int, what: str, instead: str) -> bytes:
    """At most so many bytes of a file that holds `what`, a secret.

    Raises OSError; IdentityError if it is no file (then do `instead`), or others can read it.
    """
    # Without O_NONBLOCK a named pipe in the place of the file would block us.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise IdentityError(f"{path} is not a file; {instead}")
        if status.st_mode & 0o077:
            raise IdentityError(
                f"others can read {what} in {path} (mode {status.st_mode & 0o777:o}): "
                f"chmod 600 {path}"
            )
        return file.read(most)


def sync_directory(path: Path) -> None:
    """Have the names in a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
