"""How a learner's data are divided among nodes: a table, and a picture of it.

Of each node the number of samples, and of each class how many: what is in the learner's `batches`,
so that it is what would be trained on. Targets that are not classes are cut into ten ranges of as
many samples each.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gossip.errors import ConfigError
from gossip.learner import Batches, Learner

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RANGES = 10  # of targets that are no classes
MOST_CLASSES = 30  # else ranges, too: a dictionary's words are no picture

Counts = NDArray[np.int64]


def counts(learners: Sequence[Learner]) -> Counts:
    """Samples of each class on each node, (nodes, classes).

    Raises ConfigError for a learner that does not train on `gossip.Batches`.
    """
    targets: list[NDArray[np.float64]] = [_targets(learner) for learner in learners]
    together = np.concatenate(targets)
    classes = np.unique(together)
    if len(classes) > MOST_CLASSES or (together % 1 != 0).any():
        classes = np.unique(np.quantile(together, np.arange(RANGES) / RANGES))
    places = [np.searchsorted(classes, each, side="right") - 1 for each in targets]
    return np.stack([np.bincount(each, minlength=len(classes)) for each in places])


def skew(found: Counts) -> float:
    """How far the nodes' mixtures are from that of all data: the mean total variation, 0 to 1."""
    shares = found / found.sum(axis=1, keepdims=True)
    whole = found.sum(axis=0) / found.sum()
    return float(np.abs(shares - whole).sum(axis=1).mean() / 2)


def draw(found: Counts, title: str, file: Path) -> None:
    """A bar for each node, a colour for each class. Raises ConfigError without matplotlib."""
    try:
        import matplotlib  # here, not above: it is an extra
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"drawing needs matplotlib ({error}): pip install 'gossip-learning[plots]'"
        ) from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 1 + 0.22 * len(found)), layout="constrained")
    _bars(axes, found)
    axes.set_title(title)
    try:
        figure.savefig(file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot draw into {file}: {error}") from None
    finally:
        pyplot.close(figure)


def _bars(axes: Axes, found: Counts) -> None:
    nodes, left = np.arange(len(found)), np.zeros(len(found))
    for index, column in enumerate(found.T):
        shade = index / max(1, found.shape[1] - 1)
        axes.barh(nodes, column, left=left, color=_colour(shade), edgecolor="white", linewidth=0.3)
        left += column
    axes.set_yticks(nodes)
    axes.invert_yaxis()
    axes.set_xlabel("samples, by class")
    axes.set_ylabel("node")


def _colour(shade: float) -> tuple[float, float, float, float]:
    from matplotlib import colormaps

    red, green, blue, alpha = colormaps["turbo"](shade)
    return red, green, blue, alpha


def _targets(learner: Learner) -> NDArray[np.float64]:
    batches = getattr(learner, "batches", None)
    if not isinstance(batches, Batches):
        raise ConfigError(
            f"{type(learner).__name__} does not train on gossip.Batches, so what it holds cannot "
            "be counted"
        )
    array: NDArray[np.float64] = batches.targets.double().numpy()
    return array if array.ndim == 1 else array.reshape(len(array), -1)[:, -1]
