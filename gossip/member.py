"""I/O: the network beside a training loop of your own.

    with gossip.join(model, peers=["10.0.0.5:7946"], optimizer=optimizer) as peer:
        for inputs, targets in batches:
            ...                      # your loop, your optimizer
            peer.step(len(inputs))

A background thread runs the network. `step` never waits for it: every `sync_every` steps it hands
a copy of the model over, and takes in what was merged into the copy before that, by adding the
difference. With nobody to exchange with, the model is never written to.

One buffer goes to and fro, so nothing is allocated at a sync: it carries the model's values to the
network and brings back the change that merging makes. Adding the change to the model leaves in it,
in the same pass, the values to be carried next.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import fields
from typing import Any, TypeVar

import torch
from torch import nn
from torch.optim import SGD, Optimizer

from gossip.config import Config, check
from gossip.drift import DriftCorrection
from gossip.host import Host
from gossip.vector import Selection, add, flatten, hold, layout, load

Result = TypeVar("Result")


def join(
    model: nn.Module,
    peers: Sequence[str] = (),
    *,
    optimizer: Optimizer | None = None,
    sync_every: int = 10,
    share: Sequence[str] | None = None,
    keep: Sequence[str] = (),
    device: torch.device | str = "cpu",
    config: Config | None = None,
    **settings: Any,
) -> Member:
    """Let a model learn together with others; use the result in a `with` statement.

    Args:
        model: yours; changed in place, in `step` and at the end only.
        peers: HOST:PORT of some to begin with; none: wait to be found.
        optimizer: yours; if it is SGD, its gradients are corrected for the difference between your
            data and everybody's (`gossip.drift`), from the second merge on.
        sync_every: steps between two syncs; what a merge may lag behind.
        share: patterns of the names of what is learned together (`["*lora_*"]`); None: everything.
        keep: patterns of what stays yours all the same (`["head.*"]`): never sent, never written.
        device: where the vectors live, one for each neighbour and three more.
        config: of the node; `settings` (`listen`, `state_dir`, ...) replace its fields.

    Raises LayoutError if the model cannot be shared, ConfigError for settings that make no sense;
    entering raises what `Host` raises.
    """
    if sync_every < 1:
        raise ValueError(f"sync_every is at least 1, not {sync_every}")
    if isinstance(peers, str):
        raise TypeError(f"peers is a list of HOST:PORT; write [{peers!r}]")
    if peers:
        settings["join"] = tuple(peers)
    base = config or Config()
    known = {entry.name: getattr(base, entry.name) for entry in fields(base)}
    settled = check(known | settings, "gossip.join")
    return Member(model, optimizer, sync_every, settled, Selection.of(share, keep), device)


class Member:
    """A model on the network; made by `join`."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None,
        sync_every: int,
        config: Config,
        selection: Selection,
        device: torch.device | str,
    ) -> None:
        self._model = model
        self._selection = selection
        self._layout = layout(model, selection)
        self._drift = DriftCorrection(optimizer, sync_every) if isinstance(optimizer, SGD) else None
        self._sync_every = sync_every
        # Not the training thread's while a sync is on its way.
        self._buffer = torch.empty(self._layout.size, device=device)
        self._host = Host(self._layout, flatten(model, self._buffer, selection), config)
        self._steps = 0
        self._samples = 0
        self._merging: Future[bool] | None = None  # whether the buffer then brings a change
        self._up: Future[None] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None  # while the thread runs
        self._over = asyncio.Event()
        # A daemon thread: if your loop dies in a way that skips `with`, the process must end.
        self._thread = threading.Thread(target=self._run, name="gossip", daemon=True)

    @property
    def id(self) -> str:
        """Our id on the network."""
        return str(self._host.me.id)

    @property
    def address(self) -> str:
        """Where others reach us; give it to them as one of `peers`."""
        return str(self._host.me.address)

    def status(self) -> dict[str, object]:
        """What `gossip status --json` prints."""
        return self._call(self._status()).result()

    def step(self, samples: int = 1) -> None:
        """Say that the model has taken a step on so many samples.

        Raises NotFinite, some steps late, if the model held NaN or infinity; the network has not
        seen them.
        """
        if samples < 0:
            raise ValueError(f"a step is on 0 samples or more, not {samples}")
        self._steps += 1
        self._samples += samples
        due = self._steps >= self._sync_every
        if due and (self._merging is None or self._merging.done()):
            self._sync()

    def __enter__(self) -> Member:
        self._thread.start()
        self._up.result()
        if self._host.restored:
            load(self._model, self._host.agent.handed_out, self._selection)
        return self

    def __exit__(self, *exception: object) -> None:
        """Take in the last merges, say goodbye, save."""
        try:
            if exception[0] is None:
                self._sync()
                self._take_in()
        finally:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._over.set)
            self._thread.join()

    def _sync(self) -> None:
        if not self._take_in():
            flatten(self._model, self._buffer, self._selection)
        self._merging = self._call(self._merge(self._samples))
        self._steps = self._samples = 0

    def _take_in(self) -> bool:
        """Add what was merged since the last sync; whether the buffer now holds the model."""
        merging, self._merging = self._merging, None
        if merging is None or not merging.result():
            return False
        with self._drift.merging() if self._drift else nullcontext():
            add(self._model, self._buffer, self._selection)
        return True

    # in the background ---------------------------------------------------------------------------

    def _call(self, work: Coroutine[Any, Any, Result]) -> Future[Result]:
        if self._loop is None:
            work.close()
            raise RuntimeError("the network runs inside `with gossip.join(...) as peer:` only")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _merge(self, samples: int) -> bool:
        """Sync the model in the buffer, and turn it into the change that this makes, if any."""
        merged = self._host.sync(self._buffer, samples)
        if merged is self._buffer:
            return False
        hold(self._layout, self._buffer)
        torch.sub(merged, self._buffer, out=self._buffer)
        return True

    async def _status(self) -> dict[str, object]:
        return self._host.status()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if self._up.done():
                raise
            self._up.set_exception(error)

    async def _serve(self) -> None:
        async with self._host:
            self._loop = asyncio.get_running_loop()
            self._up.set_result(None)
            await self._over.wait()
            self._loop = None
