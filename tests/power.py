"""A power cut, for tests: from some call on nothing happens, and what nobody synced is lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CALLS = ("open", "fsync", "replace", "link", "rename", "unlink", "mkdir")  # what touches the disk


class PowerCut(Exception):
    """Nothing after this moment happens."""


class Disk:
    """A directory whose power may fail.

    A file whose content was not synced may be there afterwards, as long as it was and full of
    zeros: file systems that delay writing (ext4, XFS) leave it so.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._synced: dict[int, bytes] = {}  # content by inode

    def until_cut(self, calls: int, work: Callable[[], object]) -> bool:
        """Do the work, with a cut after so many calls; True if it got to its end."""
        self._synced = {file.stat().st_ino: file.read_bytes() for file in self._files()}
        with pytest.MonkeyPatch.context() as patch:
            self._limit(calls, patch)
            try:
                work()
                done = True
            except PowerCut:
                done = False
        for file in self._files():
            content = file.read_bytes()
            if self._synced.get(file.stat().st_ino) != content:
                file.write_bytes(bytes(len(content)))
        return done

    def _limit(self, calls: int, patch: pytest.MonkeyPatch) -> None:
        left = [calls]

        def limited(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **named: Any) -> Any:
                if left[0] == 0:
                    raise PowerCut  # cleaning up does not happen either
                left[0] -= 1
                found = function(*arguments, **named)
                if name == "fsync":
                    self._note(*arguments)
                return found

            return call

        for name in CALLS:
            patch.setattr(os, name, limited(name, getattr(os, name)))

    def _note(self, descriptor: int) -> None:
        file = Path(f"/proc/self/fd/{descriptor}")
        if file.is_file():
            self._synced[file.stat().st_ino] = file.read_bytes()

    def _files(self) -> list[Path]:
        return [path for path in self._directory.rglob("*") if path.is_file()]
