"""Answers from the latest merged model, while training goes on.

What answers is a copy of the learner's model, in evaluation mode and in a thread of its own; before
each batch the vector `x` is loaded into it, so it holds all that was merged until then. It draws no
random numbers on its own account and leaves the generators alone: putting their state back, as
`TorchLearner.evaluate` does, would rewind those of the training thread. A model that keeps
something to itself (`gossip.vector.Selection`, integer buffers) is copied anew for each batch,
between two rounds of training.

A learner that is no `TorchLearner` but can `predict` is asked between two rounds, with the model in
use.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from math import isfinite, isqrt, prod
from typing import Any, TypeVar

import torch
from torch import Tensor

from gossip.agent import Agent
from gossip.errors import PredictionRefused
from gossip.learner import EVALUATION_BATCH, Answering, Learner, TorchLearner
from gossip.vector import load, local

Result = TypeVar("Result")
InThread = Callable[[Callable[[], Any]], Awaitable[Any]]

MOST_INPUTS = 4096  # in one batch. A guess.
MOST_WAITING = 16  # batches. A guess.
UNREADABLE = (  # what a learner's `prepare` may raise on an input that is not what it expects
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    AttributeError,
    ImportError,
)
LEAST_SIDE = 5  # pixels of what one can draw


@dataclass(frozen=True, slots=True)
class Answered:
    """What a batch led to."""

    answers: list[object]  # one to each input, in the types of JSON
    outputs: Tensor | None  # (N, ...) of the model itself, where it can be had
    samples: int  # that the model had seen


@dataclass(frozen=True, slots=True)
class Asked:
    """What an input looks like, as far as it can be found out."""

    shape: tuple[int, ...] | None = None  # of numbers; None: something else
    highest: float = 1.0  # of these numbers, where all test inputs lie from 0 up to some value

    @property
    def side(self) -> int | None:
        """Pixels of a side, if it is a square image, which one can draw."""
        if self.shape is None:
            return None
        flat = self.shape if len(self.shape) == 1 else self.shape[-2:]
        side = isqrt(prod(flat))
        square = side * side == prod(flat) and flat[-1] in (side, side * side)
        channels = prod(self.shape) // max(prod(flat), 1)
        return side if square and side >= LEAST_SIDE and channels in (1, 3) else None


class Predictor:
    """Answers for one node; its verbs belong to the node's loop.

    Args:
        in_thread: runs work in the training thread, between two rounds.
    """

    def __init__(self, agent: Agent, learner: Learner, in_thread: InThread) -> None:
        self._agent, self._learner, self._in_thread = agent, learner, in_thread
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prediction")
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._closed = False
        self._twin: Twin | None = None

    @property
    def able(self) -> bool:
        """Whether there are answers at all."""
        return isinstance(self._learner, Answering)

    async def answer(self, raw: Sequence[Any]) -> Answered:
        """Raises PredictionRefused: it cannot be read, it is too much, nobody can answer."""
        if not self.able:
            raise PredictionRefused(
                "this learner answers nothing: give it `predict`, see gossip.Answering"
            )
        if not 1 <= len(raw) <= MOST_INPUTS:
            raise PredictionRefused(f"a batch has 1 to {MOST_INPUTS} inputs, not {len(raw)}")
        return await self._in_turn(lambda: self._answer(raw))

    async def asked(self) -> Asked:
        """What an input looks like."""
        if not isinstance(self._learner, TorchLearner):
            return Asked()
        return await self._in_turn(self._asked)

    def close(self) -> None:
        """No more answers; one under way is not waited for."""
        self._closed = True
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _in_turn(self, work: Callable[[], Awaitable[Result]]) -> Result:
        if self._waiting >= MOST_WAITING:
            raise PredictionRefused(f"{MOST_WAITING} others wait already; ask again later")
        self._waiting += 1
        try:
            async with self._turn:
                if self._closed:
                    raise PredictionRefused("the node is leaving")
                return await work()
        finally:
            self._waiting -= 1

    async def _answer(self, raw: Sequence[Any]) -> Answered:
        samples = self._agent.samples
        learner = self._learner
        try:
            if not isinstance(learner, TorchLearner):
                assert isinstance(learner, Answering)
                answers = await self._in_thread(lambda: learner.predict(raw))
                return Answered([_plain(answer) for answer in answers], None, samples)
            twin = await self._fresh(learner)
            x = self._agent.x.clone()  # on this loop, where nobody writes to it meanwhile
            answers, outputs = await self._apart(lambda: twin.answers(x, raw))
            return Answered(answers, outputs, samples)
        except UNREADABLE as error:
            if self._closed:
                raise PredictionRefused("the node is leaving") from error
            reason = " ".join(str(error).split()) or repr(error)
            raise PredictionRefused(f"an input cannot be read: {reason}") from error

    async def _fresh(self, learner: TorchLearner) -> Twin:
        if self._twin is None or self._twin.keeps:
            self._twin = await self._in_thread(lambda: Twin(learner))
        assert self._twin is not None
        return self._twin

    async def _asked(self) -> Asked:
        assert isinstance(self._learner, TorchLearner)
        twin = await self._fresh(self._learner)
        return await self._apart(twin.asked)

    async def _apart(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


class Twin:
    """A copy of a learner's model, to answer with; make it where the learner trains."""

    def __init__(self, learner: TorchLearner) -> None:
        self.model = deepcopy(learner.model).eval().requires_grad_(False)
        self._answer = learner.answer
        self.keeps = any(True for _ in local(learner.model, learner.selection))
        self._selection = learner.selection
        self._prepare = learner.prepare
        self._test = learner.test
        self._device = next(self.model.parameters()).device

    def answers(self, x: Tensor, raw: Sequence[Any]) -> tuple[list[object], Tensor]:
        """Of the model with these parameters; and its outputs (N, ...), on the CPU."""
        outputs = self._outputs(x, raw)
        return [_plain(self._answer(output)) for output in outputs], outputs

    def _outputs(self, x: Tensor, raw: Sequence[Any]) -> Tensor:
        load(self.model, x, self._selection)
        inputs = torch.stack([self._prepare(one) for one in raw])
        if self._test is not None:  # JSON writes 1.0 as 1
            inputs = inputs.to(self._test[0].dtype)
        with torch.no_grad():
            pieces = torch.split(inputs, EVALUATION_BATCH)
            return torch.cat([self.model(piece.to(self._device)).cpu() for piece in pieces])

    def asked(self) -> Asked:
        """What an input looks like, by trying one of the shape that test inputs have."""
        if self._test is None:
            return Asked()
        inputs = self._test[0]
        ones = torch.ones(inputs.shape[1:])
        try:
            prepared = self._prepare(ones.tolist())
            if prepared.shape != ones.shape or not prepared.is_floating_point():
                return Asked()
            highest = float(inputs.max()) / float(prepared.max())
        except UNREADABLE:
            return Asked()  # the learner takes no numbers
        usable = isfinite(highest) and highest > 0
        return Asked(tuple(ones.shape), round(highest, 6) if usable else 1.0)


def _plain(value: object) -> object:
    """In the types of JSON, which has no NaN and no infinity."""
    match value:
        case float():
            return value if isfinite(value) else None
        case dict():
            return {key: _plain(one) for key, one in value.items()}
        case list() | tuple():
            return [_plain(one) for one in value]
        case _:
            return value
