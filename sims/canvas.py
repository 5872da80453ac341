"""How figures look and become bytes: made to be read at 3.4 or 7 inches of width.

The same data give the same bytes: no dates, no random ids. Colours are those of Okabe and Ito,
which people who do not see red and green apart can tell.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ONE, TWO = 3.4, 7.0  # inches: a column, a page
BLUE, RED, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#999999"
SEVERAL = (BLUE, RED, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "axes.edgecolor": "#888888",
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "gossip-sim",
    "pdf.compression": 6,
}
METADATA = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}


def draw(painter: Callable[..., Figure], *data: Any) -> Figure:
    """A figure in this module's style."""
    with mpl.rc_context(STYLE):
        return painter(*data)


def save(figure: Figure, kind: str) -> bytes:
    """The bytes of a figure as svg, pdf or png."""
    target = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(target, format=kind, metadata=METADATA[kind], dpi=200)
    return target.getvalue()


def one(across: str, up: str, *, width: float = ONE, height: float = 2.2) -> tuple[Figure, Axes]:
    """A figure with one panel and names for its axes."""
    figure = Figure((width, height))
    axes = figure.add_subplot()
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    return figure, axes
