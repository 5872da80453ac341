"""I/O: runs an experiment, and makes a folder of it.

Ctrl-C ends a run after the event at hand, and everything up to the last look is written. To resume
is to play the run again from its beginning, since what a swarm holds is not written down: that
takes as long as it took, and the hash over all that happened shows that it is the same run.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gossip import model_vector
from gossip.errors import ConfigError, GossipError
from sims.engines import Engine
from sims.experiment import Experiment
from sims.folder import FAILED, FINISHED, INTERRUPTED, RUNNING, Folder
from sims.recorder import Recorder, Row
from sims.report import Report
from sims.simulation import Simulation
from sims.stage import Stage
from sims.tracks import profiled


class Diverged(GossipError):
    """Training ended in NaN on every honest node."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run has come to."""

    simulation: Simulation
    recorder: Recorder
    report: Report
    finished: bool


def conduct(
    experiment: Experiment,
    out: Path | None = None,
    *,
    figures: bool = True,
    quiet: bool = False,
    records: bool = False,
    profile: Path | None = None,
    engine: Engine | None = None,
) -> Outcome:
    """Run an experiment; with `out`, make a folder of it, with `figures` and a page if wanted.

    `quiet`: without a progress bar. `records`, `engine`: see `Stage`. `profile`: where to write a
    trace, see `sims.tracks`.

    Raises ConfigError before the work starts, with everything that is wrong; Diverged.
    """
    torch.set_num_threads(1)  # models this small lose by more; and sums keep their order
    if out is not None and figures:
        need_plots()
    stage = Stage(experiment, records=records, engine=engine)
    expected = _expected(out)
    folder = Folder.new(out, experiment) if out is not None else None
    begun = time.monotonic()
    if folder is not None:
        folder.say(RUNNING, begun_at=round(time.time()))
    with _stoppable() as stopped:
        simulation = stage.simulation()
        recorder = Recorder(simulation)
        with profiled(simulation, profile):
            with simulation.span("joining"):
                stage.fill(simulation)
            for _ in steps(experiment, simulation, stopped, quiet=quiet):
                if folder is not None:
                    with simulation.span("look"):
                        row = recorder.look()
                    _compare(row, expected, folder)
    if all(node.hostile for node in simulation.live):
        if folder is not None:
            folder.write_lines("metrics.jsonl", map(asdict, recorder.rows))
            folder.say(FAILED)
        if any(node.agent is None and node.failures for node in simulation.nodes):
            raise Diverged("training ended in NaN on every node; lower the learning rate")
        raise Diverged("no honest node is up at the end, so there is no model to look at")
    finished = not stopped()
    outcome = Outcome(simulation, recorder, simulation.report(), finished)
    if folder is not None:
        _write(folder, experiment, outcome)
        if figures:
            _draw(folder, experiment, outcome)
        folder.say(
            FINISHED if finished else INTERRUPTED,
            report=asdict(outcome.report),
            looked_at=recorder.rows[-1].time,
            trace=recorder.rows[-1].trace,
            wall_seconds=round(time.monotonic() - begun, 1),
        )
    return outcome


def _expected(out: Path | None) -> tuple[float, str] | None:
    """How far a run that was interrupted had come, and its hash there."""
    if out is None or not (out / "run.json").is_file():
        return None
    state = Folder(out).state()
    return (state["looked_at"], state["trace"]) if state["state"] == INTERRUPTED else None


def _compare(row: Row, expected: tuple[float, str] | None, folder: Folder) -> None:
    """Raises ConfigError where a run that is resumed is not what it was."""
    if expected is not None and row.time == expected[0] and row.trace != expected[1]:
        raise ConfigError(
            f"{folder.path} cannot be resumed: at {row.time:g} s this run differs from the one "
            "that was interrupted, so it was made by another version: give another --out"
        )


def steps(
    experiment: Experiment,
    simulation: Simulation,
    stopped: Callable[[], bool] = lambda: False,
    *,
    quiet: bool = False,
) -> Iterator[None]:
    """Let virtual time pass until the end, or until `stopped`; a step ends when it is time for a
    look."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f} s"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with nullcontext() if quiet else bar:
        task = bar.add_task("virtual time", total=experiment.seconds, rate="")
        began, first = time.monotonic(), simulation.now
        yield
        while simulation.now < experiment.seconds - 1e-9:
            step = min(experiment.sample_every, experiment.seconds - simulation.now)
            if stopped() or simulation.run_until(stopped, step):
                return
            rate = (simulation.now - first) / max(time.monotonic() - began, 1e-9)
            bar.update(task, completed=simulation.now, rate=f"{rate:.2g} s a second")
            yield


def need_plots() -> None:
    """Refuse to begin what cannot be drawn in the end."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise ConfigError(
            "figures need matplotlib: pip install 'gossip-learning[plots]', or give --no-figures"
        ) from None


def _write(folder: Folder, experiment: Experiment, outcome: Outcome) -> None:
    recorder, simulation = outcome.recorder, outcome.simulation
    folder.write_rows("metrics.csv", recorder.rows)
    folder.write_lines("metrics.jsonl", map(asdict, recorder.rows))
    folder.write_rows("nodes.csv", recorder.nodes)
    folder.write_lines("events.jsonl", recorder.events)
    folder.write_lines(
        "graph.jsonl", ({"time": at, "edges": edges} for at, edges in recorder.graphs)
    )
    width = len(str(experiment.nodes - 1))
    for node in simulation.live:
        assert node.agent is not None
        layout = node.learner.layout
        about = model_vector.about(layout, node.agent.samples, str(node.peer.id))
        content = b"".join(model_vector.write(layout, node.agent.x.clone(), about))
        folder.write(f"models/node-{node.index:0{width}}.safetensors", content)


def _draw(folder: Folder, experiment: Experiment, outcome: Outcome) -> None:
    from sims.page import page  # here, not above: it imports matplotlib

    simulation, recorder = outcome.simulation, outcome.recorder
    page(folder, experiment, simulation, recorder, outcome.report, outcome.finished)


@contextmanager
def _stoppable() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C or SIGTERM has asked to stop; who asks twice is obeyed at once."""
    asked: list[int] = []

    def ask(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: nobody can ask
        before = {}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
