"""Figures of a run, and of several side by side; see `sims.canvas` for how they look."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import (
    EngFormatter,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
)

from sims.canvas import BLUE, GREEN, GREY, ONE, RED, SEVERAL, TWO, one
from sims.compare import Group
from sims.diagnosis import Counts, Diagnosis
from sims.recorder import NodeRow, Row, sessions

if TYPE_CHECKING:
    from sims.experiment import Experiment

MOST_NODES = 1000  # that a graph is drawn of; more are a blot
ANNOTATED = 12  # classes at most whose confusions are written as numbers


# learning ----------------------------------------------------------------------------------------


def accuracy(rows: Sequence[Row], nodes: int) -> Figure:
    """Mean, worst node and the middle 80 %, against what it took."""
    figure = Figure((TWO, 2.4))
    columns = (
        ([row.time for row in rows], "virtual time (s)", ""),
        ([row.exchanges / nodes for row in rows], "exchanges per node", ""),
        ([row.bytes / nodes for row in rows], "sent per node", "B"),
    )
    panels = figure.subplots(1, len(columns), sharey=True)
    for axes, (across, label, unit) in zip(panels, columns, strict=True):
        low, high = [r.accuracy_low for r in rows], [r.accuracy_high for r in rows]
        axes.fill_between(across, low, high, color=BLUE, alpha=0.18, lw=0, label="middle 80 %")
        axes.plot(across, [row.accuracy_mean for row in rows], color=BLUE, label="mean")
        axes.plot(across, [row.accuracy_min for row in rows], color=RED, lw=1, label="worst node")
        axes.set_xlabel(label)
        axes.xaxis.set_major_formatter(EngFormatter(unit=unit, sep=" " if unit else ""))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlim(left=0)
    panels[0].set_ylim(0, 1)
    panels[0].set_ylabel("test accuracy")
    panels[0].yaxis.set_major_formatter(PercentFormatter(1.0))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3)
    return figure


def loss(rows: Sequence[Row]) -> Figure:
    """Mean and worst test loss."""
    figure, axes = one("virtual time (s)", "test loss")
    time = [row.time for row in rows]
    axes.plot(time, [row.loss_mean for row in rows], color=BLUE, label="mean")
    axes.plot(time, [row.loss_max for row in rows], color=RED, lw=1, label="worst node")
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure


def consensus(rows: Sequence[Row]) -> Figure:
    """How far the models are apart."""
    figure, axes = one("virtual time (s)", "consensus distance")
    known = [(row.time, row.consensus_distance) for row in rows if row.consensus_distance > 0]
    axes.plot(*zip(*known, strict=True) if known else ((), ()), color=BLUE)
    axes.set_yscale("log")
    axes.grid(which="minor", color="#f3f3f3", lw=0.4)
    plain = FuncFormatter(lambda value, place: f"{value:g}")
    axes.yaxis.set_major_formatter(plain)
    values = [distance for _, distance in known]
    if values and max(values) < 30 * min(values):  # too few powers of ten to read it by
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axes.yaxis.set_minor_formatter(plain)
    else:
        axes.yaxis.set_minor_formatter(NullFormatter())
    return figure


def staleness(gaps: Sequence[float]) -> Figure:
    """Seconds between two exchanges on one link."""
    figure, axes = one("seconds since the exchange before", "share of exchanges")
    values = np.asarray(gaps)
    values = values[values > 0]
    if len(values):
        least, most = np.quantile(values, [0.002, 1])  # repeats at once are few
        bins = np.geomspace(least, max(most, 1.01 * least), 40).tolist()
        weights = np.full(len(values), 1 / len(values))
        axes.hist(values, bins=bins, weights=weights, color=BLUE, alpha=0.85)
        middle = float(np.median(values))
        axes.axvline(middle, color=RED, lw=1)
        axes.annotate(
            f"median {middle:.2g} s",
            (middle, 0.97),
            xycoords=("data", "axes fraction"),
            xytext=(-4, 0),
            ha="right",
            textcoords="offset points",
            color=RED,
            va="top",
            fontsize=7,
        )
        axes.set_xscale("log")
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return figure


# the network -------------------------------------------------------------------------------------


def topology(
    edges: Sequence[tuple[int, int]], nodes: Sequence[NodeRow], experiment: Experiment
) -> Figure:
    """Who was linked with whom in the end, coloured by accuracy; who was down is hollow."""
    figure = Figure((ONE + 0.6, ONE))
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set_aspect("equal")
    places = _places(edges, len(nodes), experiment)
    lines = LineCollection(
        [(places[a], places[b]) for a, b in edges], colors="#9aa0a6", linewidths=0.45, alpha=0.7
    )
    axes.add_collection(lines)
    up = [row.node for row in nodes if row.up]
    down = [row.node for row in nodes if not row.up]
    size = float(np.clip(4000 / max(len(nodes), 1), 6, 90))
    accuracies = [nodes[node].accuracy for node in up]
    points = axes.scatter(
        places[up, 0],
        places[up, 1],
        c=accuracies,
        s=size,
        cmap="viridis",
        edgecolors="white",
        linewidths=0.4,
        zorder=2,
    )
    axes.scatter(
        places[down, 0],
        places[down, 1],
        s=size,
        facecolors="white",
        edgecolors=RED,
        lw=0.8,
        zorder=2,
    )
    bar = figure.colorbar(points, ax=axes, shrink=0.75, aspect=18, pad=0.02)
    bar.set_label("test accuracy")
    bar.outline.set_visible(False)
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    bar.ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.autoscale_view()
    return figure


def _places(edges: Sequence[tuple[int, int]], nodes: int, experiment: Experiment) -> Any:
    import networkx as nx

    graph = nx.Graph()
    graph.add_nodes_from(range(nodes))
    graph.add_edges_from(edges)
    match experiment.topology.kind:
        case "ring" | "exponential" | "complete" | "small-world":
            found = nx.circular_layout(graph)
        case "grid" | "torus":
            columns = _columns(edges, nodes)
            found = {node: (node % columns, -(node // columns)) for node in range(nodes)}
        case _:
            found = nx.spring_layout(graph, seed=1, iterations=80, k=2.2 / max(nodes, 1) ** 0.5)
    return np.array([found[node] for node in range(nodes)], dtype=float)


def _columns(edges: Sequence[tuple[int, int]], nodes: int) -> int:
    """Of a lattice: its longer side."""
    rows = int(nodes**0.5)
    while nodes % rows:
        rows -= 1
    return nodes // rows


def churn(lives: Sequence[tuple[float, int, bool]], nodes: int, end: float) -> Figure:
    """Who was there when."""
    figure, axes = one("virtual time (s)", "node", width=TWO, height=2.4)
    spans = list(sessions(lives, nodes, end))
    width = float(np.clip(150 / nodes, 0.35, 8))
    axes.add_collection(
        LineCollection(
            [((begin, node), (until, node)) for node, begin, until in spans],
            colors=BLUE,
            linewidths=width,
            alpha=0.55,
            capstyle="butt",
        )
    )
    gone = [(until, node) for node, _, until in spans if until < end]
    came = [(begin, node) for node, begin, _ in spans]
    back = [(at, node) for (at, node) in came if any(n == node and u < at for u, n in gone)]
    size = float(np.clip(1500 / nodes, 5, 30))
    for points, colour, marker, label in (
        (gone, RED, "x", "goes"),
        (back, GREEN, "|", "comes back"),
    ):
        if points:
            axes.scatter(
                [at for at, _ in points],
                [node for _, node in points],
                c=colour,
                s=size,
                marker=marker,
                lw=0.9,
                label=label,
                zorder=3,
            )
    axes.set_xlim(0, end)
    axes.set_ylim(nodes - 0.5, -0.5)
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(visible=False)
    if gone:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    return figure


def traffic(rows: Sequence[Row], nodes: Sequence[NodeRow]) -> Figure:
    """Bytes: of the network over time, and of each node."""
    figure = Figure((TWO, 2.2))
    left, right = figure.subplots(1, 2)
    time = np.array([row.time for row in rows])
    total = np.array([row.bytes for row in rows], dtype=float)
    if len(rows) > 1:
        rate = np.diff(total) / np.diff(time) / len(nodes)
        left.stairs(rate, time, color=BLUE, lw=1.2)
    left.set_xlabel("virtual time (s)")
    left.set_ylabel("sent per node")
    left.yaxis.set_major_formatter(EngFormatter(unit="B/s"))
    left.set_ylim(bottom=0)
    left.set_xlim(left=0)
    for values, colour, label in (
        ([row.sent for row in nodes], BLUE, "sent"),
        ([row.received for row in nodes], GREEN, "received"),
    ):
        ordered = np.sort(values)[::-1]
        right.plot(np.arange(1, len(ordered) + 1), ordered, color=colour, label=label)
    right.set_xlabel("nodes, busiest first")
    right.set_ylabel("in the whole run")
    right.yaxis.set_major_formatter(EngFormatter(unit="B"))
    right.set_ylim(bottom=0)
    right.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    right.legend()
    return figure


# the data ----------------------------------------------------------------------------------------


def partition(counts: Counts) -> Figure:
    """How many samples of each class every node has."""
    figure = Figure((TWO, 2.2))
    top, axes = figure.subplots(2, 1, sharex=True, height_ratios=[1, 3])
    nodes, classes = counts.shape
    top.stairs(counts.sum(axis=1), np.arange(nodes + 1) - 0.5, fill=True, color=GREY)
    top.set_ylabel("samples")
    top.set_ylim(bottom=0)
    image = axes.imshow(
        counts.T, aspect="auto", cmap="Blues", interpolation="nearest", vmin=0, origin="lower"
    )
    axes.grid(visible=False)
    axes.set_xlabel("node")
    axes.set_ylabel("class")
    axes.yaxis.set_major_locator(MaxNLocator(min(classes, 10), integer=True))
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    bar = figure.colorbar(image, ax=[top, axes], aspect=25, pad=0.01)
    bar.set_label("samples of the class")
    bar.outline.set_visible(False)
    bar.ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    return figure


def confusion(diagnosis: Diagnosis) -> Figure:
    """What is taken for what, as shares of each true class."""
    figure = Figure((ONE, ONE - 0.3))
    axes = figure.add_subplot()
    counts = diagnosis.confusion
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    classes = len(shares)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.grid(visible=False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.xaxis.set_major_locator(MaxNLocator(min(classes, 12), integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(min(classes, 12), integer=True))
    if classes <= ANNOTATED:
        axes.set_xticks(range(classes))
        axes.set_yticks(range(classes))
        for (true, predicted), share in np.ndenumerate(shares):
            if share >= 0.01:
                colour = "white" if share > 0.5 else "#333333"
                axes.text(
                    predicted,
                    true,
                    f"{100 * share:.0f}",
                    ha="center",
                    va="center",
                    fontsize=6,
                    color=colour,
                )
    bar = figure.colorbar(image, ax=axes, shrink=0.85, aspect=20, pad=0.02)
    bar.set_label("share of the true class (%)")
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    bar.outline.set_visible(False)
    return figure


def classes(diagnosis: Diagnosis) -> Figure:
    """Precision, recall and F1 of each class: the mean of the nodes, and the middle 80 %."""
    scores = diagnosis.scores
    count = scores.shape[2]
    figure, axes = one("class", "score", width=TWO if count > 12 else ONE + 0.6)
    for place, (name, colour, marker) in enumerate(
        (("precision", BLUE, "o"), ("recall", RED, "s"), ("F1", GREEN, "D"))
    ):
        across = np.arange(count) + (place - 1) * 0.24
        middle = scores[:, place].mean(axis=0)
        low, high = np.quantile(scores[:, place], [0.1, 0.9], axis=0)
        reach = np.maximum(np.stack([middle - low, high - middle]), 0)
        axes.errorbar(across, middle, reach, fmt=marker, ms=3, lw=0.8, color=colour, label=name)
    axes.set_ylim(0, 1.02)
    if count <= 30:
        axes.set_xticks(range(count))
    axes.grid(axis="x", visible=False)
    axes.legend(
        ncols=3,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        borderaxespad=0.2,
        columnspacing=1.2,
        handletextpad=0.4,
    )
    return figure


# several runs -------------------------------------------------------------------------------------


def comparison(groups: Sequence[Group], across: str, up: str) -> Figure:
    """One line for each group: the mean of its seeds, and from the least to the most of them."""
    named = {"bytes": "sent per node", "time": "virtual time (s)"}
    figure, axes = one(named.get(across, f"{across} per node"), up, width=ONE + 1, height=2.6)
    for colour, group in zip(cycle(SEVERAL), groups, strict=False):
        curves = [(run.curve(across), run.curve(up)) for run in group.runs]
        end = min(max(x) for x, _ in curves)
        shared = np.linspace(max(min(x) for x, _ in curves), end, 200)
        values = np.stack([np.interp(shared, x, y) for x, y in curves])
        axes.plot(shared, values.mean(axis=0), color=colour, label=group.label)
        if len(curves) > 1:
            low, high = values.min(axis=0), values.max(axis=0)
            axes.fill_between(shared, low, high, color=colour, alpha=0.15, lw=0)
    if across != "time":  # algorithms differ by powers of ten in what they send
        axes.set_xscale("log")
    axes.xaxis.set_major_formatter(EngFormatter(unit="B" if across == "bytes" else ""))
    if up in ("accuracy", "worst"):
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_ylim(0, 1)
    if up == "consensus":
        axes.set_yscale("log")
    figure.legend(loc="outside upper center", ncols=min(3, len(groups)))
    return figure
