"""From raw values to what a network takes: plain functions, and one module.

Every node has to prepare its data as all others do, or one model could not serve them. What can be
fixed is fixed: words fall into buckets by their checksum, sounds become decibels above a floor.
What has to be measured, how large values are and how far they spread, is measured by each node on
its own data and gossiped: `Standardise`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

WORD = re.compile(r"[a-z0-9+#]+")
UNIT = 1e-3  # below it `symlog` is linear; a guess
LOWEST, HIGHEST = 100.0, 3800.0  # Hz; whatever rate from 8 kHz a sound has, these are in it
FRAME = 0.032  # seconds; a guess
FARTHEST = 4.0  # deviations from the mean; a guess
FLOOR = 1e-5  # of a band's energy, of a full scale of 1; -50 dB


class Standardise(nn.Module):
    """Numbers (N, features) less their mean, divided by their deviation, both over all nodes.

    A node's share in the two averages is its own mean and variance, which it puts in once, with its
    first training step; the average of the nodes' buffers never changes after that, and gossip
    brings every node to it. Nodes weigh alike, and the variance is that within nodes: where nodes
    differ in their means, values spread a little more than 1. NaN, which is what is missing,
    becomes the mean; what lies far out, in a range that a node has not seen, is cut.
    """

    mean: Tensor
    variance: Tensor
    given: Tensor

    def __init__(self, own: Tensor) -> None:
        super().__init__()
        count = own.isfinite().sum(dim=0).clamp_min(1)
        mean = own.nan_to_num().sum(dim=0) / count
        variance = (own - mean).nan_to_num().square().sum(dim=0) / count
        self.own = (mean, variance)
        self.register_buffer("mean", torch.zeros_like(mean))
        self.register_buffer("variance", torch.ones_like(mean))
        self.register_buffer("given", torch.tensor(False))

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, features) to the same."""
        if self.training and not self.given:
            self.given.fill_(True)
            self.mean += self.own[0]
            self.variance += self.own[1] - 1
        deviation = self.variance.clamp_min(1e-6).sqrt()
        return ((inputs - self.mean) / deviation).nan_to_num().clamp(-FARTHEST, FARTHEST)


def symlog(values: Tensor) -> Tensor:
    """The logarithm of magnitudes, with their sign: so that columns of any unit spread alike."""
    return values.sign() * (values.abs() / UNIT).log1p()


def numbers(shape: tuple[int, ...]) -> Callable[[Any], Tensor]:
    """A reader of nested lists of numbers of one shape; others raise ValueError."""

    def read(raw: Any) -> Tensor:
        try:
            found = torch.tensor(raw, dtype=torch.float32)
        except (TypeError, ValueError, RuntimeError):
            found = None
        if found is None or found.shape != shape or not bool(found.isfinite().all()):
            wanted = " x ".join(map(str, shape))
            raise ValueError(f"an input is {wanted} numbers, not {str(raw)[:60]}")
        return found

    return read


def words(text: str, buckets: int) -> NDArray[np.float32]:
    """Which words occur, (buckets,), of length 1; a word's bucket is told by its checksum."""
    found = np.zeros(buckets, np.float32)
    for word in WORD.findall(text.lower()):
        found[crc32(word.encode()) % buckets] = 1
    length = float(np.linalg.norm(found))
    return found / np.float32(length) if length else found


def codes(text: str, alphabet: str) -> NDArray[np.int64]:
    """Each character's place in the alphabet; len(alphabet) for all others."""
    known = {character: code for code, character in enumerate(alphabet)}
    return np.array([known.get(character, len(alphabet)) for character in text], np.int64)


def log_mel(sound: NDArray[np.float32], rate: int, mels: int, frames: int) -> NDArray[np.float32]:
    """The energy in `mels` bands over `frames` moments of the whole sound, (mels, frames).

    Logarithms, about -1 to 1, of a sound made as loud as every other. Frames lie evenly over the
    sound, so a word spoken slowly looks like one spoken fast, and no rate has to be converted.
    """
    size = int(FRAME * rate)
    sound = sound / max(float(np.abs(sound).max(initial=0)), 1e-6)
    padded = np.pad(sound, size // 2)
    starts = np.linspace(0, max(len(padded) - size, 0), frames).astype(np.int64)
    padded = np.pad(padded, (0, size))
    windows = padded[starts[:, None] + np.arange(size)] * np.hanning(size)
    power = np.square(np.abs(np.fft.rfft(windows))) / size
    energy = _mel_filters(size, rate, mels) @ power.T
    return (np.log10(energy + FLOOR) / 2.5 + 1).astype(np.float32)


def trimmed(sound: NDArray[np.float32], quiet: float = 0.02) -> NDArray[np.float32]:
    """Without the silence, below `quiet` times the loudest, before and after."""
    loud = np.flatnonzero(np.abs(sound) > quiet * np.abs(sound).max(initial=0))
    return sound[loud[0] : loud[-1] + 1] if len(loud) else sound


class Augment(nn.Module):
    """In training, images (N, ..., H, W) moved and mirrored at random; else as they are."""

    def forward(self, images: Tensor) -> Tensor:
        """To the same shape. Draws from PyTorch's global generator, as dropout does."""
        return mirrored(moved(images)) if self.training else images


def moved(images: Tensor, most: int = 1) -> Tensor:
    """Images (N, ..., H, W), all moved by up to `most` pixels each way, around the edge."""
    down, right = torch.randint(-most, most + 1, (2,)).tolist()
    return images.roll((down, right), dims=(-2, -1))


def mirrored(images: Tensor) -> Tensor:
    """Images (N, ..., H, W), half of them from left to right."""
    chosen = torch.rand(len(images)) < 0.5
    flipped = images.clone()
    flipped[chosen] = images[chosen].flip(-1)
    return flipped


def split(keys: Sequence[str], seed: int, test: float = 0.2, validation: float = 0.0) -> list[int]:
    """0 to train on, 1 to validate with, 2 to test with, for each sample.

    Whole keys, by their checksums: so what belongs together stays together, and every node says the
    same of a key, whatever else it has. Raises ValueError unless the shares leave some to train on.
    """
    if not (test >= 0 <= validation and test + validation < 1):
        raise ValueError(f"shares of {test} and {validation} leave nothing to train on")
    found = []
    for key in keys:
        place = crc32(f"{seed}/{key}".encode()) / 2**32
        found.append(2 if place < test else 1 if place < test + validation else 0)
    return found


@lru_cache(8)
def _mel_filters(size: int, rate: int, mels: int) -> NDArray[np.float64]:
    """Triangles over the bins of a Fourier transform, (mels, size // 2 + 1)."""
    ends = 2595 * np.log10(1 + np.array([LOWEST, HIGHEST]) / 700)
    edges = 700 * (10 ** (np.linspace(ends[0], ends[1], mels + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(size, 1 / rate)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    slopes = np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle))
    filters = np.maximum(slopes, 0)
    found: NDArray[np.float64] = filters / np.maximum(filters.sum(axis=1, keepdims=True), 1e-9)
    return found
