"""I/O: WAV, through the standard library's `wave`."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.data.files import DataError, contents

MOST = 1 << 26  # bytes: six minutes of stereo at 48 kHz
RATES = range(8000, 192001)  # Hz

Sound = tuple[NDArray[np.float32], int]


def read(place: str | Path) -> Sound:
    """Samples (N,) in [-1, 1], channels averaged, and the rate in Hz. Raises DataError."""
    return decode(contents(place, MOST), str(place))


def decode(data: bytes, place: str = "the sound") -> Sound:
    """The same from a file's bytes; PCM of 8, 16, 24 or 32 bits."""
    try:
        with wave.open(io.BytesIO(data)) as file:
            channels, width, rate, frames, *_ = file.getparams()
            if width > 4:
                raise ValueError(f"{8 * width} bits a sample are above 32")
            raw = file.readframes(min(frames, len(data)))
    except (wave.Error, EOFError, ValueError, OverflowError) as error:
        problem = str(error) or "it is cut short"
        raise DataError(f"{place}: at byte 0: is no WAV file of plain PCM: {problem}") from None
    if rate not in RATES:
        raise DataError(f"{place}: at byte 24: a rate of {rate} Hz is not 8,000 to 192,000")
    if not 0 < frames * width * channels == len(raw):
        raise DataError(
            f"{place}: at byte 40: declares {frames} frames of {channels * width} bytes, and "
            f"{len(raw)} bytes are there"
        )
    samples = _decoded(raw, width).reshape(-1, channels)
    mono: NDArray[np.float32] = samples.mean(axis=1, dtype=np.float32)
    return mono, rate


def _decoded(raw: bytes, width: int) -> NDArray[np.float32]:
    if width == 1:
        around = np.frombuffer(raw, np.uint8).astype(np.float32) - np.float32(128)
        return around / np.float32(128)
    if width == 3:  # no such dtype: the bytes become the upper three of four
        padded = np.zeros((len(raw) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(raw, np.uint8).reshape(-1, 3)
        raw, width = padded.tobytes(), 4
    whole = np.frombuffer(raw, f"<i{width}").astype(np.float32)
    return whole / np.float32(2 ** (8 * width - 1))
