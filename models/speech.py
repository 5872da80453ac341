"""Spoken words: a small convolutional or recurrent network over the energy in frequency bands.

By default words spoken by espeak-ng, with its voices as speakers: SYNTHETIC speech, which is far
easier than people's. Each node hears a few speakers; all are tested on speakers whom nobody has
heard. `path` is a directory of WAV files, one directory for each word: Speech Commands, whose
names begin with the speaker and whose `testing_list.txt` says what is for testing, or your own.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gossip.learner import Batches, TorchLearner
from models import metrics, partition, preprocess, seeding
from models.answers import labelled
from models.data import folders, sound
from models.data.files import DataError

WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-gb-x-gbclan")
VARIANTS = ("m1", "m3", "m5", "m7", "f1", "f2", "f3", "f4", "f5", "croak")
MELS, FRAMES = 24, 32
SPOKEN_IN = 20.0  # seconds for one word; it takes 15 ms

KEPT = 1 << 15  # sounds whose energies are kept, 3 kB each, for the other nodes of a simulation

Energies = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Recordings:
    """Sounds, not yet read, and what is known of each."""

    places: tuple[str, ...]
    targets: Tensor  # (N,), an index into `words`
    words: tuple[str, ...]
    speakers: list[str]
    testing: NDArray[np.bool_]
    read: Callable[[str], Energies]

    def inputs(self, chosen: NDArray[np.int64]) -> Tensor:
        """The energies of some of them, (n, MELS, FRAMES)."""
        return torch.from_numpy(np.stack([self.read(self.places[index]) for index in chosen]))


def learner(
    shard: int = 0,
    shards: int = 1,
    seed: int = 0,
    path: str = "",
    model: Literal["cnn", "gru"] = "cnn",
    lr: float = 0.05,
    momentum: float = 0.9,
    batch_size: int = 16,
    steps: int = 10,
    drift_correction: float | None = None,
) -> TorchLearner:
    """Make the learner of node `shard` of `shards`; speakers are dealt out.

    Raises DataError where espeak-ng is missing, and for a directory that is not as said above.
    """
    partition.check(shard, shards)
    found = hear(path) if path else voices()
    kept, testing = np.flatnonzero(~found.testing), np.flatnonzero(found.testing)
    mine = kept[partition.by_key([found.speakers[index] for index in kept], shards, seed)[shard]]
    order = seeding.order(seed, shard)
    return TorchLearner(
        network(model, len(found.words), seed),
        Batches(found.inputs(mine), found.targets[mine], batch_size, order),
        nn.functional.cross_entropy,
        partial(torch.optim.SGD, lr=lr, momentum=momentum),
        steps=steps,
        test=(found.inputs(testing), found.targets[testing]),
        metrics=metrics.classification,
        drift_correction=drift_correction,
        prepare=prepare,
        answer=labelled(found.words),
    )


def network(model: Literal["cnn", "gru"], words: int, seed: int) -> nn.Module:
    """From (N, MELS, FRAMES) to scores (N, words); 10,826 or 11,146 parameters for ten words."""
    with seeding.weights(seed):
        if model == "gru":
            return Recurrent(words)
        return nn.Sequential(
            nn.Unflatten(1, (1, MELS)),
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),  # (N, 16, 12, 16)
            nn.Conv2d(16, 24, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(4),  # (N, 24, 3, 4)
            nn.Flatten(),
            nn.Linear(288, 24),
            nn.ReLU(),
            nn.Linear(24, words),
        )


class Recurrent(nn.Module):
    """A GRU that hears one moment after another, and says at the end what it was."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.hear = nn.GRU(MELS, 48, batch_first=True)
        self.say = nn.Linear(48, words)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, MELS, FRAMES) to (N, words)."""
        heard, _ = self.hear(inputs.transpose(1, 2))
        scores: Tensor = self.say(heard.mean(dim=1))
        return scores


def prepare(raw: Any) -> Tensor:
    """The bytes of a WAV file, as energies (MELS, FRAMES)."""
    if not isinstance(raw, bytes):
        raise ValueError("an input is the bytes of a WAV file")
    return torch.from_numpy(features(*sound.decode(raw)))


def features(samples: NDArray[np.float32], rate: int) -> Energies:
    """What the networks take of a sound, (MELS, FRAMES)."""
    return preprocess.log_mel(preprocess.trimmed(samples), rate, MELS, FRAMES)


def hear(path: str) -> Recordings:
    """What lies in a directory."""
    files = folders.files(path, folders.SOUNDS)
    testing = files.named(folders.listed(path, "testing_list.txt"))
    if not testing.any():
        testing = np.array(preprocess.split(files.speakers, 0)) == 2
    if testing.all() or not testing.any():
        raise DataError(
            f"{path}: {len(set(files.speakers))} speakers are too few to test with some and train "
            "with others; a name begins with its speaker: yes/anna_1.wav"
        )
    targets = torch.from_numpy(files.labels)
    return Recordings(files.places, targets, files.classes, files.speakers, testing, _read)


def voices() -> Recordings:
    """What espeak-ng can say: all words by each voice; every fourth voice is for testing."""
    names = [f"{accent}+{variant}" for accent in ACCENTS for variant in VARIANTS]
    pairs = [(voice, word) for voice in names for word in WORDS]
    places = tuple(f"{voice} {word}" for voice, word in pairs)
    testing = np.array([names.index(voice) % 4 == 0 for voice, _ in pairs])
    targets = torch.arange(len(pairs)) % len(WORDS)
    return Recordings(places, targets, WORDS, [voice for voice, _ in pairs], testing, _speak)


@lru_cache(KEPT)
def _read(place: str) -> Energies:
    return features(*sound.read(place))


@lru_cache(KEPT)
def _speak(place: str) -> Energies:
    voice, word = place.split()
    rng = np.random.default_rng(crc32(voice.encode()))  # each voice has its pitch and its haste
    pitch, speed = int(rng.integers(25, 75)), int(rng.integers(120, 200))
    with tempfile.TemporaryDirectory() as directory:
        return features(*sound.decode(say(word, voice, Path(directory) / "word", pitch, speed)))


def say(word: str, voice: str, file: Path, pitch: int = 50, speed: int = 160) -> bytes:
    """Have espeak-ng speak a word; `file` is overwritten. Raises DataError where it is missing."""
    command = ["espeak-ng", "-v", voice, "-p", str(pitch), "-s", str(speed), "-w", str(file), word]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=SPOKEN_IN)
        return file.read_bytes()
    except (OSError, subprocess.SubprocessError) as error:
        raise DataError(
            f"espeak-ng cannot speak ({error}): install it (apt-get install espeak-ng), or give a "
            "directory of recordings with path=..."
        ) from None
