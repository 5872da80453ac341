"""Spoken words: a small convolutional or recurrent network over the energy in frequency bands.

By default words spoken by espeak-ng, with its voices as speakers: SYNTHETIC speech, which is far
easier than people's. Each node hears a few speakers; all are tested on speakers whom nobody has
heard. `path` is a directory of WAV files, one directory for each word: Speech Commands, whose
names begin with the speaker and whose `testing_list.txt` says what is for testing, or your own.
"""

from __future__ import annotations

import subprocess
import tempfile
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

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

Heard = tuple[Tensor, Tensor, tuple[str, ...], list[str], NDArray[np.bool_]]


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
    inputs, targets, words, speakers, testing = hear(path) if path else speak()
    kept = np.flatnonzero(~testing)
    mine = kept[partition.by_key([speakers[index] for index in kept], shards, seed)[shard]]
    return TorchLearner(
        network(model, len(words), seed),
        Batches(inputs[mine], targets[mine], batch_size, seeding.order(seed, shard)),
        nn.functional.cross_entropy,
        partial(torch.optim.SGD, lr=lr, momentum=momentum),
        steps=steps,
        test=(inputs[testing], targets[testing]),
        metrics=metrics.classification,
        drift_correction=drift_correction,
        prepare=prepare,
        answer=labelled(words),
    )


def network(model: Literal["cnn", "gru"], words: int, seed: int) -> nn.Module:
    """From (N, MELS, FRAMES) to scores (N, words); 10,506 or 11,594 parameters for ten words."""
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


def features(samples: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """What the networks take of a sound, (MELS, FRAMES)."""
    return preprocess.log_mel(preprocess.trimmed(samples), rate, MELS, FRAMES)


@lru_cache(2)
def hear(path: str) -> Heard:
    """Inputs, words as numbers, their names, speakers, and what is for testing, of a directory."""
    files = folders.files(path, folders.SOUNDS)
    speakers = files.speakers
    testing = files.named(folders.listed(path, "testing_list.txt"))
    if not testing.any():
        testing = np.array(preprocess.split(speakers, 0)) == 2
    if testing.all() or not testing.any():
        raise DataError(
            f"{path}: {len(set(speakers))} speakers are too few to test with some and train with "
            "others; a name begins with its speaker: yes/anna_1.wav"
        )
    inputs = np.stack([features(*sound.read(place)) for place in files.places])
    return (
        torch.from_numpy(inputs),
        torch.from_numpy(files.labels),
        files.classes,
        speakers,
        testing,
    )


@lru_cache(1)
def speak() -> Heard:
    """The same, spoken by espeak-ng: all words by each voice; every fourth voice is for testing."""
    voices = [f"{accent}+{variant}" for accent in ACCENTS for variant in VARIANTS]
    inputs, speakers = [], []
    with tempfile.TemporaryDirectory() as directory:
        for number, voice in enumerate(voices):
            rng = np.random.default_rng(number)
            pitch, speed = rng.integers(25, 75), rng.integers(120, 200)
            for word in WORDS:
                data = say(word, voice, Path(directory) / "word.wav", int(pitch), int(speed))
                inputs.append(features(*sound.decode(data)))
                speakers.append(voice)
    targets = torch.arange(len(inputs)) % len(WORDS)
    testing = np.array([voices.index(voice) % 4 == 0 for voice in speakers])
    return torch.from_numpy(np.stack(inputs)), targets, WORDS, speakers, testing


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
