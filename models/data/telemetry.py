"""I/O: what Linux says of this machine in /proc, as four numbers a reading."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.data.files import DataError

NAMES = ("cpu", "load", "memory", "network")
PROC = Path("/proc")


class Telemetry:
    """Reads /proc; the shares of time are since the reading before."""

    def __init__(self, root: Path = PROC) -> None:
        self._root = root
        self._busy, self._total, self._bytes = 0, 0, 0
        self._at = 0.0

    def read(self) -> NDArray[np.float32]:
        """(4,): share of the processors' time in use, load per processor, share of memory in use,
        and the logarithm of bytes per second on the network. Raises DataError where there is no
        /proc.
        """
        try:
            return np.array([self._cpu(), self._load(), self._memory(), self._network()], "f4")
        except (OSError, ValueError, IndexError, KeyError) as error:
            raise DataError(
                f"{self._root} does not tell how this machine is ({error}): it needs Linux; "
                "elsewhere give a recorded series with path=..."
            ) from None

    def _cpu(self) -> float:
        first = (self._root / "stat").read_text().splitlines()[0]
        times = [int(field) for field in first.split()[1:9]]
        total, busy = sum(times), sum(times) - times[3] - times[4]  # less idle and waiting
        passed, worked = total - self._total, busy - self._busy
        self._total, self._busy = total, busy
        return worked / passed if passed > 0 else 0.0

    def _load(self) -> float:
        processors = (self._root / "stat").read_text().count("\ncpu")
        return float((self._root / "loadavg").read_text().split()[0]) / max(1, processors)

    def _memory(self) -> float:
        lines = (self._root / "meminfo").read_text().splitlines()
        sizes = {line.partition(":")[0]: int(line.split()[1]) for line in lines}
        return 1 - sizes["MemAvailable"] / sizes["MemTotal"]

    def _network(self) -> float:
        lines = (self._root / "net" / "dev").read_text().splitlines()[2:]
        fields = [line.partition(":")[2].split() for line in lines]
        moved = sum(int(each[0]) + int(each[8]) for each in fields)
        now = time.monotonic()
        rate = (moved - self._bytes) / max(now - self._at, 1e-3) if self._at else 0.0
        self._bytes, self._at = moved, now
        return float(np.log1p(max(rate, 0.0)) / 20)
