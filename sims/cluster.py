"""I/O: sweeps and training on Ray, on this machine or a cluster.

Of a sweep, runs are tasks. Of one run, stacks of training rounds are: its events have one order,
and what each does depends on those before it, so they stay in one process. What training needs goes
through Ray's object store, 20 kB a round for a model of 5,000 parameters with momentum, correction
and samples; so it pays where a round takes several milliseconds, not where it takes one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gossip.errors import ConfigError
from sims.engines import Engine
from sims.stack import Outcome, Stack, Template, compute
from sims.sweep import Start, pack_cell


@contextmanager
def ray_tasks(jobs: int, *, address: str | None = None) -> Iterator[Start]:
    """Cells as tasks; `address` is of a cluster, None for a Ray of this machine with that many
    cores. The workers need this package installed, and the learner's file at the same path."""
    with _started(jobs, address) as ray:
        task = ray.remote(pack_cell)
        with ThreadPoolExecutor(jobs) as threads:  # each waits for one cell
            yield partial(_start, threads, task.remote, ray.get)


@contextmanager
def ray_rounds(*, address: str | None = None) -> Iterator[Engine]:
    """Stacks as tasks; `address` is of a cluster, None for a Ray of this machine. The workers need
    this package installed, and the learner's file at the same path."""
    with _started(None, address) as ray:
        yield RayEngine(ray)


class RayEngine:
    """Sends stacks to workers; what alike learners have in common only once."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._task = ray.remote(_compute)
        self._templates: dict[Template, Any] = {}

    def submit(self, stack: Stack) -> Future[Outcome]:
        """A task. Raises whatever Ray does if it cannot send it."""
        if stack.template not in self._templates:
            self._templates[stack.template] = self._ray.put(stack.template)
        rest = {each.name: _sent(getattr(stack, each.name)) for each in fields(stack)[1:]}
        answer = self._task.remote(self._templates[stack.template], rest).future()
        outcome: Future[Outcome] = Future()
        answer.add_done_callback(partial(_hand_on, outcome))
        return outcome


def _compute(template: Template, rest: dict[str, Any]) -> tuple[Any, ...]:
    """On a worker. Arrays from the object store cannot be written to, so they are copied."""
    torch.set_num_threads(1)
    outcome = compute(Stack(template, **{name: _received(value) for name, value in rest.items()}))
    return tuple(_sent(getattr(outcome, each.name)) for each in fields(outcome))


def _hand_on(outcome: Future[Outcome], answer: Future[tuple[Any, ...]]) -> None:
    error = answer.exception()
    if error is not None:
        outcome.set_exception(error)
    else:
        outcome.set_result(Outcome(*map(_received, answer.result())))


def _sent(value: Any) -> Any:
    """Ray moves arrays without pickling them, but not tensors."""
    return value.numpy() if isinstance(value, Tensor) else value


def _received(value: Any) -> Any:
    return torch.tensor(value) if hasattr(value, "__array__") else value


@contextmanager
def _started(cores: int | None, address: str | None) -> Iterator[Any]:
    """Ray, at an address or with that many cores of this machine; None: all."""
    try:
        import ray
    except ModuleNotFoundError:
        raise ConfigError("--engine ray needs Ray: pip install 'gossip-learning[ray]'") from None
    try:
        if address:
            ray.init(address=address, log_to_driver=False)
        else:
            ray.init(num_cpus=cores, include_dashboard=False, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"cannot reach Ray at {address}: {error}") from None
    try:
        yield ray
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
