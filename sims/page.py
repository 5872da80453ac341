"""A run as a page to look at: one HTML file with everything in it, which opens without a network.

What a learner does not show (no test set, no classes) is said to be missing, not left out in
silence.
"""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

from matplotlib.figure import Figure

from sims import canvas, figures
from sims.diagnosis import class_counts, diagnose
from sims.experiment import Experiment, as_table
from sims.folder import Folder, machine, versions
from sims.recorder import Recorder
from sims.report import Report, size
from sims.simulation import Simulation

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; margin: 0 auto; padding: 1.5rem;
       max-width: 62rem; background: #fff; }
h1 { font-size: 1.4rem; margin: 0 0 .3rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
p.lead { font-size: 1.1rem; margin: .2rem 0 1rem; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem 1.5rem; align-items: flex-start; }
figure { margin: 0; } figure.wide { flex: 1 1 100%; }
figure img { width: 100%; height: auto; } figure.one { flex: 1 1 24rem; max-width: 30rem; }
figcaption { font-size: .85rem; color: #555; }
table { border-collapse: collapse; font-size: .9rem; } td, th { padding: .15rem .9rem .15rem 0;
       text-align: left; vertical-align: top; font-variant-numeric: tabular-nums; }
th { font-weight: 600; color: #555; } .columns { display: flex; flex-wrap: wrap; gap: 1rem 3rem; }
.warning { background: #fff4e5; border-left: 4px solid #D55E00; padding: .4rem .8rem; }
pre { background: #f6f6f6; padding: .6rem .8rem; overflow-x: auto; font-size: .85rem; }
@media print { body { max-width: none; } figure { break-inside: avoid; } }
"""


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure and what it shows."""

    name: str
    caption: str
    wide: bool
    paint: Callable[[], Figure]


def page(
    folder: Folder,
    experiment: Experiment,
    simulation: Simulation,
    recorder: Recorder,
    report: Report,
    finished: bool,
) -> None:
    """Write figures/ and report.html."""
    shown = []
    missing: list[str] = []
    for picture in _pictures(experiment, simulation, recorder, missing):
        figure = canvas.draw(picture.paint)
        drawn = canvas.save(figure, "svg")
        figure.set_layout_engine("none")  # it is laid out now, which takes as long as drawing it
        folder.write(f"figures/{picture.name}.svg", drawn)
        folder.write(f"figures/{picture.name}.pdf", canvas.save(figure, "pdf"))
        shown.append(_figure(picture, drawn))
    warnings = [*_warnings(experiment, simulation, recorder, finished), *missing]
    folder.write("report.html", _html(experiment, recorder, report, shown, warnings))


def _pictures(
    experiment: Experiment, simulation: Simulation, recorder: Recorder, missing: list[str]
) -> Iterator[Picture]:
    rows, nodes = recorder.rows, experiment.nodes
    last = recorder.nodes[-nodes:]
    yield Picture(
        "accuracy",
        "Test accuracy of the honest nodes that are up, against time, exchanges and bytes.",
        True,
        lambda: figures.accuracy(rows, nodes),
    )
    yield Picture("loss", "Test loss.", False, lambda: figures.loss(rows))
    yield Picture(
        "consensus",
        "Consensus distance: the root of the models' mean squared distance to their mean, as a "
        "share of the length of that mean.",
        False,
        lambda: figures.consensus(rows),
    )
    if nodes <= figures.MOST_NODES:
        yield Picture(
            "topology",
            "Links at the end. Colour: accuracy; hollow: down.",
            False,
            lambda: figures.topology(recorder.graphs[-1][1], last, experiment),
        )
    else:
        missing.append(f"No picture of the links: {nodes:,} nodes are too many to tell apart.")
    yield Picture(
        "staleness",
        "How old a neighbour's model is when it is merged: the time since the exchange before on "
        "that link.",
        False,
        lambda: figures.staleness(recorder.staleness),
    )
    yield Picture(
        "churn",
        "Who was there when.",
        True,
        lambda: figures.churn(simulation.lives, nodes, simulation.now),
    )
    yield Picture(
        "traffic",
        "Bytes sent, everything included: learning, links, the roster.",
        True,
        lambda: figures.traffic(rows, last),
    )
    yield from _classification(simulation, missing)


def _classification(simulation: Simulation, missing: list[str]) -> Iterator[Picture]:
    counts = class_counts(simulation)
    if counts is not None:
        yield Picture(
            "partition",
            "The training data of each node: samples of every class.",
            True,
            lambda: figures.partition(counts),
        )
    else:
        missing.append("No picture of the data: the learner's batches do not show their classes.")
    found = diagnose(simulation)
    if found is None:
        missing.append("No confusions: the learner has no test set of classes.")
        return
    yield Picture(
        "confusion",
        "What is taken for what, over all nodes, in per cent of the true class.",
        False,
        lambda: figures.confusion(found),
    )
    yield Picture(
        "classes",
        "Precision, recall and F1 of each class: the mean of the nodes, and the middle 80 %.",
        False,
        lambda: figures.classes(found),
    )


def _warnings(
    experiment: Experiment, simulation: Simulation, recorder: Recorder, finished: bool
) -> Iterator[str]:
    if not finished:
        yield (
            f"This run was interrupted at {simulation.now:,.1f} of {experiment.seconds:g} s. The "
            "same command with the same --out plays it again from the beginning."
        )
    down = [node.index for node in simulation.nodes if node.agent is None]
    if down:
        yield f"{len(down)} of {experiment.nodes} nodes are down at the end and not judged."
    alone = [row.node for row in recorder.nodes[-experiment.nodes :] if row.up and not row.links]
    if alone and experiment.algorithm != "isolated":
        yield f"{len(alone)} nodes had no neighbour at the end: {_few(alone)}."
    if experiment.attack:
        yield (
            f"{experiment.attackers:.0%} of the nodes attack ({experiment.attack}); accuracies are "
            "of the others."
        )


def _few(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")


def _figure(picture: Picture, svg: bytes) -> str:
    kind = "wide" if picture.wide else "one"
    data = b64encode(svg).decode()
    return (
        f'<figure class="{kind}"><img src="data:image/svg+xml;base64,{data}" '
        f'alt="{escape(picture.caption)}"><figcaption>{escape(picture.caption)}</figcaption>'
        "</figure>"
    )


def _html(
    experiment: Experiment,
    recorder: Recorder,
    report: Report,
    shown: list[str],
    warnings: list[str],
) -> str:
    title = f"{experiment.nodes} nodes, {experiment.algorithm}, {experiment.topology.kind}"
    lead = (
        f"After {report.virtual_seconds:,.0f} virtual seconds the nodes that are up reach "
        f"{report.accuracy_mean:.1%} on average, the worst {report.accuracy_min:.1%}, having sent "
        f"{size(report.bytes_per_node)} each in {report.exchanges:,} exchanges."
    )
    happened = Counter(event["event"] for event in recorder.events)
    tables = "".join(
        f"<div><h2>{escape(head)}</h2>{_table(rows)}</div>"
        for head, rows in (
            ("Report", _report(report)),
            ("What happened", sorted(happened.items())),
            ("Made with", [*versions().items(), *machine().items()]),
        )
    )
    said = "".join(f'<p class="warning">{escape(warning)}</p>' for warning in warnings)
    described = _table(sorted(_flat(as_table(experiment))))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}'
        '</title><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f'<p class="lead">{escape(lead)}</p>{said}'
        f'<div class="figures">{"".join(shown)}</div>'
        f'<div class="columns">{tables}</div>'
        f"<h2>The experiment</h2>{described}"
        "<h2>The same again</h2><pre>gossip-sim run experiment.toml --out AGAIN</pre>"
        "</body></html>\n"
    )


def _report(report: Report) -> list[tuple[str, str]]:
    return [
        ("accuracy, mean", f"{report.accuracy_mean:.4f}"),
        ("accuracy, worst", f"{report.accuracy_min:.4f}"),
        ("consensus distance", f"{report.consensus_distance:.3g}"),
        ("sent per node", size(report.bytes_per_node)),
        ("exchanges", f"{report.exchanges:,}"),
        ("seed", str(report.seed)),
        ("trace", f"{report.trace[:16]}..."),
    ]


def _table(rows: Any) -> str:
    cells = "".join(
        f"<tr><th>{escape(str(name))}</th><td>{escape(str(value))}</td></tr>"
        for name, value in rows
    )
    return f"<table>{cells}</table>"


def _flat(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif value != []:
            yield f"{prefix}{key}", value
