"""The next character of a text: a recurrent network, or a small transformer.

By default the sources of Python's standard library, as in `models.characters`: a node sees whole
modules, as an author would. `path` is a text file, or a directory of them: whole files are dealt
out; of a single file, runs of its lines.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from gossip.learner import Batches, TorchLearner
from models import characters, metrics, partition, preprocess, seeding
from models.characters import ALPHABET, Codes
from models.data import texts
from models.data.files import DataError

LENGTH = 24  # characters of a sample
WIDTH, HEADS, HIDDEN = 32, 2, 64
TEST_SAMPLES = 256
PIECES = 64  # of a single file
SYMBOLS = len(ALPHABET) + 1  # one for all others


def learner(
    shard: int = 0,
    shards: int = 1,
    seed: int = 0,
    path: str = "",
    model: Literal["gru", "transformer"] = "gru",
    lr: float = 0.005,
    batch_size: int = 32,
    steps: int = 10,
) -> TorchLearner:
    """Make the learner of node `shard` of `shards`. Raises DataError for files that are no text."""
    partition.check(shard, shards)
    training, testing = read(path) if path else characters.modules()
    if shards > len(training):
        raise DataError(f"{path or 'the library'}: {len(training)} texts are too few for {shards}")
    mine = np.random.default_rng(seed).permutation(len(training))[shard::shards]
    inputs, targets = samples([training[index] for index in mine])
    tests = samples(testing)
    chosen = np.random.default_rng(0).permutation(len(tests[0]))[:TEST_SAMPLES]
    return TorchLearner(
        network(model, seed),
        Batches(inputs, targets, batch_size, seeding.order(seed, shard)),
        nn.functional.cross_entropy,
        partial(torch.optim.Adam, lr=lr),
        steps=steps,
        test=(tests[0][chosen], tests[1][chosen]),
        metrics=metrics.language,
        prepare=prepare,
        answer=next_character,
    )


def network(model: Literal["gru", "transformer"], seed: int) -> nn.Module:
    """From codes (N, LENGTH) to scores for what follows each, (N, SYMBOLS, LENGTH)."""
    with seeding.weights(seed):
        return Recurrent() if model == "gru" else Transformer()


class Recurrent(nn.Module):
    """A GRU, 26,479 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(SYMBOLS, WIDTH)
        self.read = nn.GRU(WIDTH, HIDDEN, batch_first=True)
        self.say = nn.Linear(HIDDEN, SYMBOLS)

    def forward(self, codes: Tensor) -> Tensor:
        """(N, T) to (N, SYMBOLS, T)."""
        read, _ = self.read(self.embed(codes))
        scores: Tensor = self.say(read)
        return scores.transpose(1, 2)


class Transformer(nn.Module):
    """Two layers of causal attention, 31,311 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(SYMBOLS, WIDTH)
        self.place = nn.Parameter(0.02 * torch.randn(LENGTH, WIDTH))
        layers = (
            nn.TransformerEncoderLayer(
                WIDTH, HEADS, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True
            )
            for _ in range(2)
        )
        self.layers = nn.ModuleList(layers)
        self.say = nn.Linear(WIDTH, SYMBOLS)

    def forward(self, codes: Tensor) -> Tensor:
        """(N, T) to (N, SYMBOLS, T), T at most LENGTH."""
        length = codes.shape[1]
        hidden = self.embed(codes) + self.place[:length]
        future = nn.Transformer.generate_square_subsequent_mask(length, device=codes.device)
        for layer in self.layers:
            hidden = layer(hidden, src_mask=future, is_causal=True)
        scores: Tensor = self.say(hidden)
        return scores.transpose(1, 2)


def samples(texts: list[Codes]) -> tuple[Tensor, Tensor]:
    """Runs of LENGTH characters, (N, LENGTH), and the same moved by one; leaves out short rests."""
    runs = [text[: (len(text) - 1) // LENGTH * LENGTH + 1] for text in texts if len(text) > LENGTH]
    if not runs:
        raise DataError(f"no text is longer than {LENGTH} characters")
    inputs = np.concatenate([run[:-1].reshape(-1, LENGTH) for run in runs])
    targets = np.concatenate([run[1:].reshape(-1, LENGTH) for run in runs])
    return torch.from_numpy(inputs), torch.from_numpy(targets)


def read(path: str) -> tuple[list[Codes], list[Codes]]:
    """Texts to train on and to test on, as codes; every fifth is for testing."""
    found = list(texts.read(path).values())
    if len(found) == 1:
        lines = found[0].splitlines(keepends=True)
        size = max(1, -(-len(lines) // PIECES))
        found = ["".join(lines[at : at + size]) for at in range(0, len(lines), size)]
    if len(found) < 2:
        raise DataError(f"{path}: one line is too little: some has to be left for testing")
    every = [preprocess.codes(text, ALPHABET) for text in found]
    testing = range(0, len(every), 5)
    return [each for at, each in enumerate(every) if at not in testing], [every[i] for i in testing]


def prepare(raw: Any) -> Tensor:
    """The end of a text, LENGTH characters; a shorter one has line ends before it."""
    if not isinstance(raw, str):
        raise ValueError(f"an input is a text, not {str(raw)[:60]}")
    return torch.from_numpy(preprocess.codes(raw[-LENGTH:].rjust(LENGTH, "\n"), ALPHABET))


def next_character(output: Tensor) -> object:
    """The likeliest character after the end; "" stands for one that is not in the alphabet."""
    return [*ALPHABET, ""][int(output[:, -1].argmax())]
