"""I/O: a trace that Perfetto (https://ui.perfetto.dev) and chrome://tracing open.

The array form of the Trace Event Format (Google, "Trace Event Format", 2016): one event a line,
written as it happens, so that memory is bounded. The end of the array may be missing, and half a
last event is passed over, so that a run that was killed leaves a trace as well; of a compressed
one (`.gz`) `zcat` must then save what there is.
"""

from __future__ import annotations

import gzip
import json
import logging
import time
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import BinaryIO, cast

from gossip.errors import ConfigError

log = logging.getLogger("gossip")

MOST = 1 << 30  # bytes before compression; Perfetto takes about 2 GiB. A guess.
FLUSHED_EVERY = 1.0  # seconds; what a kill can cost


class Trace:
    """Use as a context; all verbs may be called from any thread. Times are seconds.

    A process is a group of tracks and a thread is a track; what they stand for is the caller's
    business. Events of one thread must nest. Raises ConfigError if the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            opened = gzip.GzipFile(path, "wb", 3) if path.suffix == ".gz" else path.open("wb")
        except OSError as error:
            raise ConfigError(
                f"cannot write {path}: {error.strerror}; give another --profile"
            ) from None
        self._file: BinaryIO | None = cast(BinaryIO, opened)
        self._lock = Lock()
        self._written = 0
        self._flushed = time.monotonic()

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            if self._file is not None:
                self._write("\n]\n" if self._written else "[]\n")
                self._close()

    def process(self, process: int, name: str) -> None:
        """Name a group of tracks; groups are shown by their numbers."""
        self._put(f'"ph":"M","pid":{process},"name":"process_name",{_args(name=name)}')
        self._put(
            f'"ph":"M","pid":{process},"name":"process_sort_index",{_args(sort_index=process)}'
        )

    def thread(self, process: int, thread: int, name: str) -> None:
        """Name a track."""
        self._put(
            f'"ph":"M","pid":{process},"tid":{thread},"name":"thread_name",{_args(name=name)}'
        )

    def span(self, process: int, thread: int, name: str, begin: float, seconds: float) -> None:
        """Something took a while; told when it is over."""
        where = f'"pid":{process},"tid":{thread},"name":"{name}"'
        self._put(f'"ph":"X",{where},"ts":{1e6 * begin:.3f},"dur":{1e6 * seconds:.3f}')

    def moment(self, process: int, thread: int, name: str, at: float, **about: object) -> None:
        """Something happened."""
        where = f'"pid":{process},"tid":{thread},"name":"{name}"'
        self._put(f'"ph":"i","s":"t",{where},"ts":{1e6 * at:.3f},{_args(**about)}')

    def begin(self, process: int, number: int, name: str, at: float, **about: object) -> None:
        """Something begins that may overlap with others of its name; the number tells which."""
        self._put(f"{_apart('b', process, number, name, at)},{_args(**about)}")

    def end(self, process: int, number: int, name: str, at: float) -> None:
        """What has begun with that number is over."""
        self._put(_apart("e", process, number, name, at))

    def _put(self, event: str) -> None:
        with self._lock:
            if self._file is None:
                return
            self._write(f"{',' if self._written else '['}\n{{{event}}}")
            if self._written > MOST:
                log.warning("%s has %d bytes and ends here; the run goes on", self._path, MOST)
                self._write("\n]\n")
                self._close()

    def _write(self, text: str) -> None:
        if self._file is None:
            return
        data, now = text.encode(), time.monotonic()
        self._written += len(data)
        try:
            self._file.write(data)
            if now >= self._flushed + FLUSHED_EVERY:
                self._file.flush()
                self._flushed = now
        except OSError as error:
            self._give_up(error)

    def _close(self) -> None:
        if self._file is not None:
            try:
                self._file.close()
            except OSError as error:
                self._give_up(error)
        self._file = None

    def _give_up(self, error: OSError) -> None:
        """A full disk ends the trace, not the run."""
        log.error("cannot write %s: %s; the run goes on without it", self._path, error.strerror)
        if self._file is not None:
            with suppress(OSError):  # it tries to write once more
                self._file.close()
        self._file = None


def _apart(phase: str, process: int, number: int, name: str, at: float) -> str:
    where = f'"cat":"{name}","id":"{process}.{number}","pid":{process},"tid":0,"name":"{name}"'
    return f'"ph":"{phase}",{where},"ts":{1e6 * at:.3f}'


def _args(**about: object) -> str:
    return f'"args":{json.dumps(about, separators=(",", ":"))}'
