"""I/O: files that are there completely or not at all, for their owner alone (mode 0600)."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def create(path: Path, content: bytes) -> None:
    """Write a new file. Raises FileExistsError, and OSError; then there is nothing new."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        _write(temporary, content)
        os.link(temporary, path)  # unlike rename, never over another
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def replace(path: Path, content: bytes) -> None:
    """Write a file, or write it anew. Raises OSError; then the one that was there stays."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    _write(fresh, content)
    os.replace(fresh, path)
    sync_directory(path.parent)


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
