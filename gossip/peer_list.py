"""I/O: a file of peer ids that is read again when it changes."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from gossip.errors import ConfigError
from p2p import PeerId

log = logging.getLogger("gossip")

MAX_FILE = 16 << 20  # bytes that are read


class PeerList:
    """Peer ids, one a line; `#` begins a comment.

    When the file can no longer be read, the list stays as it was, and the log says so, once for
    each state of the file: an editor that saves must not throw everybody out.

    Raises ConfigError: the file cannot be read at the start; names the line.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None  # of the file as it was last looked at
        self._peers: frozenset[PeerId] = frozenset()
        self._peers = self._read()

    def __contains__(self, peer: PeerId) -> bool:
        try:
            if _stamp(self._path.stat()) != self._stamp:
                self._peers = self._read()
        except OSError as error:
            if self._stamp is not None:
                self._stamp = None
                log.error("cannot read %s: %s; the list stays", self._path, error.strerror)
        except ConfigError as error:
            log.error("%s; the list stays as it was", error)
        return peer in self._peers

    def _read(self) -> frozenset[PeerId]:
        try:
            with open(self._path, encoding="utf-8", errors="replace") as file:
                self._stamp = _stamp(os.fstat(file.fileno()))
                lines = file.read(MAX_FILE).splitlines()
        except OSError as error:
            raise ConfigError(f"cannot read {self._path}: {error.strerror}") from None
        peers = set()
        for number, line in enumerate(lines, 1):
            text = line.partition("#")[0].strip()
            try:
                peers.update([PeerId.parse(text)] if text else [])
            except ValueError as error:
                raise ConfigError(f"{self._path}, line {number}: {error}") from None
        return frozenset(peers)


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mtime_ns, status.st_size, status.st_ino
