"""I/O: plays a run again, to see what one node went through.

The run is made anew from its description; at every look the hash over all that happened must be
the one that was written down, so what is shown is what happened then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gossip.errors import ConfigError
from sims.folder import Folder
from sims.laboratory import steps
from sims.recorder import Recorder, Row, described
from sims.stage import Stage


def replay(
    path: Path, until: float | None, node: int | None, tell: Callable[[dict[str, Any]], None]
) -> Row:
    """Play a run until then, telling the events of that node, exchanges included.

    Without a node, all nodes' events but exchanges are told. Returns the last look. Raises
    ConfigError: no run, no such node, or a run that does not come out as it was.
    """
    torch.set_num_threads(1)
    folder = Folder(path)
    experiment = folder.experiment()
    if node is not None and not 0 <= node < experiment.nodes:
        raise ConfigError(f"there is no node {node}: the run has 0 to {experiment.nodes - 1}")
    known = {row["time"]: row["trace"] for row in folder.metrics()}
    stage = Stage(experiment)
    simulation = stage.simulation()
    recorder = Recorder(simulation)
    last = min(until if until is not None else experiment.seconds, experiment.seconds)

    def listen(index: int, event: Any, now: float) -> None:
        fact = described(index, event, now)
        if fact is None or now > last or node not in (None, index):
            return
        if node is not None or fact["event"] != "exchange":
            tell(fact)

    simulation.listen(listen)
    stage.fill(simulation)
    for _ in steps(replace(experiment, seconds=last), simulation):
        row = recorder.look()
        if row.time in known and known[row.time] != row.trace:
            raise ConfigError(
                f"at {row.time:g} s this run is not what {path} was: it was made by another version"
            )
    return recorder.rows[-1]
