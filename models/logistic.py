"""Logistic regression on made-up data: convex, so that one can say how far from the best it is.

The setting of CHOCO-SGD's experiments (Koloskova, Stich, Jaggi, ICML 2019, section 5.3): an L2
penalty of 1 / m on m samples, one sample a step, and step sizes that fall as 1 / t. With `split =
"sorted"` the samples are sorted by label and dealt out in blocks, so most nodes see one label only.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gossip.vector import Layout
from models import partition

SIZE, SAMPLES = 500, 4500
DATA_SEED = 9
FLIPPED = 0.1  # share of labels that are wrong, so that no plane separates them

Floats = NDArray[np.float64]


class LogisticLearner:
    """Plain SGD in NumPy; `evaluate` tells the loss over everybody's samples, less the least."""

    def __init__(self, mine: NDArray[np.int64], seed: int, steps: int, a: float, b: float) -> None:
        self.layout = Layout(("w",), ((SIZE,),), ("float32",))
        self._points, self._signs = (part[mine] for part in make_samples())
        self._w = np.zeros(SIZE)
        self._rng = np.random.default_rng(seed)
        self._steps, self._a, self._b = steps, a, b
        self._t = 0

    def parameters(self) -> Tensor:
        """A copy of the model, (SIZE,) float32."""
        return torch.from_numpy(self._w.astype(np.float32))

    def load(self, parameters: Tensor) -> None:
        """Replace the model."""
        self._w = parameters.numpy().astype(np.float64)

    def train(self) -> int:
        """`steps` steps on a sample each, of size a / (t + b)."""
        for index in self._rng.integers(0, len(self._signs), self._steps):
            point, sign = self._points[index], self._signs[index]
            pull = sign / (1 + np.exp(sign * (point @ self._w)))
            self._w += self._a / (self._t + self._b) * (pull * point - self._w / SAMPLES)
            self._t += 1
        return self._steps

    def evaluate(self) -> dict[str, float]:
        """How much higher the objective is than at its minimum."""
        return {"suboptimality": objective(self._w) - objective(best())}


def learner(
    shard: int = 0,
    shards: int = 1,
    seed: int = 0,
    split: Literal["sorted", "iid"] = "sorted",
    steps: int = 1,
    a: float = 2000.0,
    b: float = 1000.0,
) -> LogisticLearner:
    """Make the learner of node `shard` of `shards`."""
    partition.check(shard, shards)
    signs = make_samples()[1]
    if split == "iid":
        parts = partition.iid(signs, shards, seed)
    else:
        parts = np.array_split(np.argsort(signs, kind="stable"), shards)
    return LogisticLearner(parts[shard], (seed << 20) + shard, steps, a, b)


@lru_cache(1)
def make_samples() -> tuple[Floats, Floats]:
    """Points (SAMPLES, SIZE) of length about 1, and signs (SAMPLES,)."""
    rng = np.random.default_rng(DATA_SEED)
    points = rng.standard_normal((SAMPLES, SIZE)) / SIZE**0.5
    signs = np.sign(points @ rng.standard_normal(SIZE))
    signs[rng.random(SAMPLES) < FLIPPED] *= -1
    return points, signs


def objective(w: Floats) -> float:
    """Mean logistic loss over all samples, and the penalty."""
    points, signs = make_samples()
    return float(np.logaddexp(0, -signs * (points @ w)).mean() + w @ w / (2 * SAMPLES))


@lru_cache(1)
def best() -> Floats:
    """Where the objective is least, by Newton's method."""
    points, signs = make_samples()
    w = np.zeros(SIZE)
    for _ in range(50):
        pull = 1 / (1 + np.exp(signs * (points @ w)))
        gradient = -(points.T @ (signs * pull)) / SAMPLES + w / SAMPLES
        if np.linalg.norm(gradient) < 1e-12:
            break
        curvature = (points.T * (pull * (1 - pull))) @ points / SAMPLES + np.eye(SIZE) / SAMPLES
        w = w - np.linalg.solve(curvature, gradient)
    return w
