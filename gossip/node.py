"""I/O: one agent on real sockets, a real clock and a training thread.

    async with Node(learner, config) as node:
        async for event in node.events(): ...

The training thread runs one round after another: take over what was merged, train, hand the model
to the event loop, which syncs it with the agent in between. Merges that arrive during a round wait
in the agent's vector; training never waits for the network. Unless `merge` is "mean", a round
begins with a look at one neighbour's model (`gossip.trust`), if the learner can `probe`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import inf
from typing import TypeVar

from torch import Tensor

from gossip.config import Config
from gossip.errors import NotFinite
from gossip.host import Host
from gossip.learner import Learner, Probing, Resumable
from gossip.prediction import Predictor
from gossip.prediction_api import PredictionApi
from gossip.profile import Profile
from gossip.routes import Route
from gossip.trust import Probe
from p2p import PeerId

Result = TypeVar("Result")
Verdict = tuple[PeerId, float, float]  # what `Agent.judge` takes

log = logging.getLogger("gossip")

HOPELESS = 5  # rounds in a row that end in NaN before training gives up. A guess.


class Node(Host):
    """A learner on the network.

    `finished` is a task that ends only when training cannot go on, with the learner's exception;
    the network keeps running until the node is left.
    """

    finished: asyncio.Task[None]

    def __init__(
        self, learner: Learner, config: Config | None = None, profile: Profile | None = None
    ) -> None:
        super().__init__(learner.layout, learner.parameters(), config or Config(), profile=profile)
        self._learner = learner
        self._resting = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="training")

    async def __aenter__(self) -> Node:
        await super().__aenter__()
        self.finished = asyncio.create_task(self._learn())
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._predictor.close()
        await self._stop_training()
        await asyncio.to_thread(self._thread.shutdown)
        await super().__aexit__(*exception)

    def _routes(self) -> list[Route]:
        self._predictor = Predictor(self.agent, self._learner, self._in_thread)
        return PredictionApi(self._predictor, self.api.exposition).routes

    async def rest(self) -> None:
        """Stop training for good, take over what was merged, and evaluate."""
        await self._stop_training()
        await self._take_over(self.agent.x.clone())  # merges go on meanwhile
        await self.evaluate()

    async def _stop_training(self) -> None:
        """Waits for the round under way, which is bounded, and for its progress to be synced."""
        self._resting = True
        await asyncio.wait([self.finished])

    async def _kept(self) -> dict[str, Tensor]:
        if not isinstance(self._learner, Resumable):
            return {}
        if self._left and not self.finished.done():
            return self.local  # in a hurry: the round under way may never end
        try:
            if self.finished.done():
                self.local = self._learner.state()
            else:
                self.local = await self._in_thread(self._learner.state)
            return self.local
        except Exception as error:
            log.error("the learner cannot say what it keeps: %r; only the model is saved", error)
            return {}

    async def evaluate(self) -> dict[str, float]:
        """Measure the model in use; waits its turn in the training thread."""
        metrics = await self._in_thread(self._said("evaluate", self._learner.evaluate))
        self.metrics = {name: float(value) for name, value in metrics.items()}
        return self.metrics

    async def _learn(self) -> None:
        evaluated = -inf
        failures = 0
        if self.restored:
            kept = self.local  # as it was saved; a checkpoint may be written before we are through
            await self._take_over(self.agent.handed_out)
            await self._resume(kept)
        while True:
            probe = self.agent.probe() if isinstance(self._learner, Probing) else None
            parameters, samples, verdict = await self._in_thread(
                self._said("training", partial(self._round, probe))
            )
            del probe
            if verdict is not None:
                self.agent.judge(*verdict)
            try:
                merged = self.sync(parameters, samples)
            except NotFinite as error:
                failures += 1
                if failures == HOPELESS:
                    raise
                log.warning("%s Training goes on from the last good model.", error)
                merged = self.sync(self.agent.handed_out, 0)  # as if this round had not been
            else:
                failures = 0
            if self._resting:
                return
            if merged is not parameters:
                await self._take_over(merged)
            del parameters, merged  # a copy less while training runs
            if time.monotonic() >= evaluated + self.config.evaluate_every:
                await self.evaluate()
                evaluated = time.monotonic()

    async def _resume(self, kept: dict[str, Tensor]) -> None:
        if kept and isinstance(self._learner, Resumable):
            learner = self._learner
            try:
                await self._in_thread(lambda: learner.restore(kept))
            except ValueError as error:
                log.warning(
                    "what training kept does not fit the learner any more: %s; the model goes on "
                    "from the checkpoint, the optimizer begins anew",
                    error,
                )

    def _round(self, probe: Probe | None) -> tuple[Tensor, int, Verdict | None]:
        """In the training thread."""
        verdict = None
        if probe is not None and isinstance(self._learner, Probing):
            verdict = (probe.peer, *self._learner.probe(probe.parameters))
        samples = self._learner.train()
        return self._learner.parameters(), samples, verdict

    async def _take_over(self, merged: Tensor) -> None:
        """Nothing else calls `sync` meanwhile, so its buffer stays as it is."""
        await self._in_thread(self._said("load", lambda: self._learner.load(merged)))

    def _said(self, name: str, work: Callable[[], Result]) -> Callable[[], Result]:
        """The same work, as a span."""

        def said() -> Result:
            with self._span(name):
                return work()

        return said

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, _carried, work)


def _carried(work: Callable[[], Result]) -> Result:
    """Do it; the two exceptions that asyncio cannot carry from a thread to a task are wrapped."""
    try:
        return work()
    except (StopIteration, SystemExit) as error:
        raise RuntimeError(f"the learner raised {error!r}") from error
