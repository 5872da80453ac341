"""The next character of Python's standard library: text that every machine with Python has.

A node sees whole modules, as an author would: a natural split, in which topics differ and the
language does not. The network sees eight characters and guesses the next; 7,623 parameters, Adam.
The sources are those of the interpreter that runs this, so figures of two Python versions differ a
little.
"""

from __future__ import annotations

import sysconfig
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from gossip.learner import Batches, TorchLearner

ALPHABET = "\n !\"#%'()*+,-./0123456789:<=>@ABCDEFILMNOPRSTUV[]_abcdefghijklmnopqrstuvwxyz{}"
CONTEXT = 8  # characters
WIDTH = 8  # of a character's embedding
MODULES = 64  # the largest
TESTED_EVERY = 5  # every fifth module is for testing
TEST_SAMPLES = 4096
MOST = 30_000  # characters of a module, so that none rules

Codes = NDArray[np.int64]


def learner(
    shard: int = 0,
    shards: int = 1,
    seed: int = 0,
    lr: float = 0.01,
    batch_size: int = 64,
    steps: int = 10,
) -> TorchLearner:
    """Make the learner of node `shard` of `shards`; modules are dealt out at random."""
    training, testing = modules()
    if not 0 <= shard < shards <= len(training):
        raise ValueError(f"shard {shard} of {shards} is none: {len(training)} modules are there")
    mine = np.random.default_rng(seed).permutation(len(training))[shard::shards]
    order = torch.Generator().manual_seed((seed << 20) + shard)
    tests = samples(testing)
    chosen = np.random.default_rng(0).permutation(len(tests[0]))[:TEST_SAMPLES]
    return TorchLearner(
        network(seed),
        Batches(*samples([training[index] for index in mine]), batch_size, order),
        nn.functional.cross_entropy,
        partial(torch.optim.Adam, lr=lr),
        steps=steps,
        test=(tests[0][chosen], tests[1][chosen]),
    )


def network(seed: int) -> nn.Module:
    """From (N, CONTEXT) codes to the next; weights depend on the seed alone."""
    symbols = len(ALPHABET) + 1  # one for all others
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return nn.Sequential(
            nn.Embedding(symbols, WIDTH),
            nn.Flatten(),
            nn.Linear(CONTEXT * WIDTH, 48),
            nn.ReLU(),
            nn.Linear(48, symbols),
        )


@lru_cache(1)
def modules() -> tuple[list[Codes], list[Codes]]:
    """The modules to train on and those to test on, as codes."""
    library = Path(sysconfig.get_path("stdlib"))
    files = [(-path.stat().st_size, path.name) for path in library.glob("*.py")]
    chosen = sorted(name for _, name in sorted(files)[:MODULES])
    texts = [_encode((library / name).read_text(encoding="utf-8")[:MOST]) for name in chosen]
    testing = range(0, len(texts), TESTED_EVERY)
    return [text for i, text in enumerate(texts) if i not in testing], [texts[i] for i in testing]


def samples(texts: list[Codes]) -> tuple[torch.Tensor, torch.Tensor]:
    """All windows of CONTEXT characters, (N, CONTEXT), and what follows each, (N,)."""
    windows = [np.lib.stride_tricks.sliding_window_view(text, CONTEXT + 1) for text in texts]
    joined = np.concatenate(windows)
    return torch.tensor(joined[:, :-1]), torch.tensor(joined[:, -1])


def _encode(text: str) -> Codes:
    known = {character: code for code, character in enumerate(ALPHABET)}
    return np.array([known.get(character, len(ALPHABET)) for character in text], np.int64)
