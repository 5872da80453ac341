"""I/O: sweeps on Ray, on this machine or a cluster.

Only whole runs are tasks. One run is one process: its events have one order, and what each does
depends on those before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from gossip.errors import ConfigError
from sims.sweep import Start, pack_cell


@contextmanager
def ray_tasks(jobs: int, *, address: str | None = None) -> Iterator[Start]:
    """Cells as tasks; `address` is of a cluster, None for a Ray of this machine with that many
    cores. The workers need this package installed, and the learner's file at the same path."""
    try:
        import ray
    except ModuleNotFoundError:
        raise ConfigError("--engine ray needs Ray: pip install 'gossip-learning[ray]'") from None
    try:
        if address:
            ray.init(address=address, log_to_driver=False)
        else:
            ray.init(num_cpus=jobs, include_dashboard=False, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"cannot reach Ray at {address}: {error}") from None
    task = ray.remote(pack_cell)
    with ThreadPoolExecutor(jobs) as threads:  # each waits for one cell
        try:
            yield partial(_start, threads, task.remote, ray.get)
        finally:
            ray.shutdown()


def _start(
    threads: ThreadPoolExecutor,
    remote: Callable[..., Any],
    fetch: Callable[..., Any],
    table: dict[str, Any],
    path: Path,
    figures: bool,
) -> Future[None]:
    reference = remote(table, figures)

    def wait() -> None:
        for name, content in fetch(reference).items():
            file = path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)

    return threads.submit(wait)
