"""Rounds of training, held back and computed together.

A round's outcome is needed only at the virtual time at which the round ends, and what goes into it
is known when it begins. So rounds wait until the first of them ends; then all that are alike (one
architecture, loss, optimizer and batch shapes) are computed in one call, with the models stacked
along a new first dimension: `torch.func.vmap` over the model and the loss, and the learners' own
optimizer class over the stack. What is computed early is held back, and nobody sees it before its
time.

**The same numbers.** Each learner keeps its own stream of random numbers and its own optimizer
state. Where every batch of activations and every parameter is a whole number of 16 bytes, what a
stack computes for one learner does not depend on the others in it, so the trace is the same whether
a hundred rounds are computed at a time or one. Elsewhere, and in convolutions and sigmoids, a
kernel may round the last bit by where in memory a row begins; what is in a stack is decided by
virtual time alone, so the same seed still gives the same bytes, but another size of the stack gives
others. (Measured, on MKL.) A round computed by `TorchLearner.train` itself differs in the last bits
too, because an unbatched product adds the bias in another order. Hence the choice between the two
must not depend on a clock: fewer than FEW rounds of a kind are left to the learners, which is where
a stack begins to pay (measured, see FEW), and so are models so large that a stack gains nothing.

**Which learners.** A `TorchLearner` of gossip's `Batches`, a model without buffers whose parameters
are all trained by one group of plain `SGD`, momentum and drift correction included. Two are alike
if their models and losses, pickled without the parameters, are the same bytes. What `vmap` refuses
(dropout, control flow that depends on values) and everything else trains one by one.

**Memory.** The model of such a learner, its momentum and its correction become views of three flat
vectors, so a round is copied into a stack and out of it in a few calls.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isfinite
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.optim import SGD

from gossip.drift import DriftCorrection, learn
from gossip.learner import Batch, Batches, Learner, TorchLearner

FEW = 4  # rounds. On the 64-64-10 MLP a stack takes 8 ms however few it holds, a learner 3.2 ms.
MOST = 256  # rounds in one stack; measured: more fit no cache
STACK_BYTES = 64 << 20  # of the parameters in one stack: beyond, arithmetic is all that costs

Kind = tuple[object, ...]  # rounds of equal kinds can be stacked


class Trainee(Protocol):
    """How a simulation trains a node."""

    def begin(self) -> None:
        """A round begins with the model as it is."""
        ...

    def finish(self) -> tuple[Tensor, int]:
        """The round ends: the model that it made, (n,), valid until `load`; and its samples."""
        ...

    def load(self, merged: Tensor) -> None:
        """Replace the model by (n,)."""
        ...

    def give_up(self) -> None:
        """Nobody will want the outcome of this round."""
        ...


class Alone:
    """Any learner, by its own methods."""

    def __init__(self, learner: Learner) -> None:
        self._learner = learner

    def begin(self) -> None:
        """Nothing is done before the round ends."""

    def finish(self) -> tuple[Tensor, int]:
        """Train now."""
        samples = self._learner.train()
        return self._learner.parameters(), samples

    def load(self, merged: Tensor) -> None:
        """By the learner."""
        self._learner.load(merged)

    def give_up(self) -> None:
        """Nothing waits."""


class Training:
    """Holds rounds back until one of them is needed.

    Args:
        most: rounds in one stack. 1: one by one, with the same bits.
        threads: that a stack may use; 0: as many as PyTorch does.
    """

    def __init__(self, most: int = MOST, threads: int = 0) -> None:
        self.stacked = 0  # rounds so far
        self.single = 0
        self.refused: dict[bytes, str] = {}  # architectures that vmap cannot do, and why
        self._most = most
        self._threads = threads
        self._looks: dict[bytes, bytes] = {}  # each appearance once
        self._pending: dict[Kind, dict[Pupil, None]] = {}

    def enrol(self, learner: Learner) -> Trainee:
        """What trains this learner from now on."""
        look = appearance(learner)
        if look is None:
            return Alone(learner)
        assert isinstance(learner, TorchLearner)
        return Pupil(learner, self._looks.setdefault(look, look), self)

    def wait(self, pupil: Pupil, kind: Kind) -> None:
        """A round may be computed from now on."""
        self._pending.setdefault(kind, {})[pupil] = None

    def forget(self, pupil: Pupil, kind: Kind) -> None:
        """A round need not be computed any more."""
        waiting = self._pending.get(kind, {})
        waiting.pop(pupil, None)
        if not waiting:
            self._pending.pop(kind, None)

    def compute(self, pupil: Pupil, kind: Kind) -> None:
        """Compute this round, and all others of its kind if they are worth a stack."""
        waiting = self._pending[kind]
        most = STACK_BYTES // (4 * pupil.model.numel())
        if min(len(waiting), most) < FEW or pupil.look in self.refused:
            self.forget(pupil, kind)
            pupil.train_alone()
            self.single += 1
            return
        group, most = list(waiting), min(self._most, most)
        with _threads(self._threads):
            for start in range(0, len(group), most):
                members = group[start : start + most]
                try:
                    train(members)
                except RuntimeError as error:
                    if start:
                        raise
                    self.refused[pupil.look] = str(error)
                    self.compute(pupil, kind)
                    return
                self.stacked += len(members)
        del self._pending[kind]


class Pupil:
    """A learner that can be stacked."""

    def __init__(self, learner: TorchLearner, look: bytes, training: Training) -> None:
        self.learner = learner
        self.look = look
        self.parameters = list(learner.model.parameters())
        self.model = torch.cat([p.detach().flatten() for p in self.parameters])
        self.momentum: Tensor | None = None  # (n,), as in the optimizer's state
        self.h: Tensor | None = None  # (n,), as in the drift correction
        self.order: Tensor | None = None  # of the samples in this round
        self.sizes: tuple[int, ...] = ()  # of its batches
        self.data: Batches | None = None
        self.result: tuple[Tensor, Tensor | None, Tensor] | None = None  # model, momentum, loss
        self._pass: Iterator[Tensor] = iter(())
        self._training = training
        self._kind: Kind = ()
        for parameter, view in zip(self.parameters, self._views(self.model), strict=True):
            parameter.data = view
        if learner.drift is not None:
            self.h = torch.zeros_like(self.model)
            if learner.drift.h:
                self._keep_h(learner.drift, self.h)
        self._adopt_momentum()

    def begin(self) -> None:
        """Draw this round's samples, and let it wait."""
        learner = self.learner
        chosen = self._draw()
        group = learner.optimizer.param_groups[0]
        settings = tuple(value for name, value in group.items() if name != "params")
        self.sizes, self.order = tuple(map(len, chosen)), torch.cat(chosen)
        assert self.data is not None
        shapes = self.data.inputs.shape[1:], self.data.targets.shape[1:]
        self._kind = (self.look, self.sizes, shapes, settings, self.momentum is None)
        self._training.wait(self, self._kind)

    def finish(self) -> tuple[Tensor, int]:
        """Have the round computed if it is not yet, and take it over."""
        if self.result is None:
            self._training.compute(self, self._kind)
        if self.result is not None:
            model, momentum, loss = self.result
            self.result = None
            self.model.copy_(model)
            self._take_momentum(momentum)
            for batch in self._batches():
                if not self.learner.trained_on(batch):
                    break
            self.learner.last_loss = float(loss)
            if self.learner.drift is not None:
                self.learner.drift.stepped()
        return self.model, sum(self.sizes)

    def load(self, merged: Tensor) -> None:
        """Replace the model; the correction learns from what the merge did."""
        drift = self.learner.drift
        if drift is not None and self.h is not None and drift.merge():
            moved = merged - self.model
            gain = drift.gain(self.learner.optimizer.param_groups[0])
            if not isfinite(float(moved.sum())):
                self.h.zero_()  # training had failed and a good model replaces it
            elif gain:
                if not drift.h:
                    self._keep_h(drift, self.h)
                learn(self.h, moved, gain)
        self.model.copy_(merged)

    def give_up(self) -> None:
        """Do not compute the round."""
        self._training.forget(self, self._kind)

    def train_alone(self) -> None:
        """Let the learner compute the round, on the samples that were drawn for it."""
        self.learner.train_on(self._batches())
        self._adopt_momentum()

    def _batches(self) -> Iterator[Batch]:
        assert self.data is not None
        assert self.order is not None
        for which in torch.split(self.order, list(self.sizes)):
            yield self.data.inputs[which], self.data.targets[which]

    def _draw(self) -> list[Tensor]:
        chosen: list[Tensor] = []
        while len(chosen) < self.learner.steps:
            which = next(self._pass, None)
            if which is None:
                batches = self.learner.batches
                assert isinstance(batches, Batches)
                self.data, self._pass = batches, batches.orders()
            else:
                chosen.append(which)
        return chosen

    def _views(self, vector: Tensor) -> list[Tensor]:
        pieces = torch.split(vector, [p.numel() for p in self.parameters])
        return [piece.view(p.shape) for piece, p in zip(pieces, self.parameters, strict=True)]

    def _keep_h(self, drift: DriftCorrection, flat: Tensor) -> None:
        """Make the correction's `h` this flat vector, with what it has been so far."""
        views = dict(zip(self.parameters, self._views(flat), strict=True))
        for parameter, saved in drift.h.items():
            views[parameter].copy_(saved)
        drift.keep_in(views)

    def _adopt_momentum(self) -> None:
        """Make the optimizer's momentum a flat vector, once there is one."""
        state = self.learner.optimizer.state
        found = [state.get(p, {}).get("momentum_buffer") for p in self.parameters]
        if self.momentum is None and all(isinstance(buffer, Tensor) for buffer in found):
            self._take_momentum(torch.cat([buffer.flatten() for buffer in found]))

    def _take_momentum(self, momentum: Tensor | None) -> None:
        if self.momentum is not None and momentum is not None:
            self.momentum.copy_(momentum)
        elif momentum is not None:
            self.momentum = momentum.clone()
            for parameter, view in zip(self.parameters, self._views(self.momentum), strict=True):
                self.learner.optimizer.state[parameter]["momentum_buffer"] = view


def train(pupils: Sequence[Pupil]) -> None:
    """Compute one round of each, all of one kind; their results wait in them."""
    first = pupils[0].learner
    parameters = [nn.Parameter(stacked) for stacked in _stack([p.model for p in pupils], pupils[0])]
    names = [name for name, _ in first.model.named_parameters()]
    optimizer = SGD(parameters, **_settings(first.optimizer.param_groups[0]))
    if pupils[0].momentum is not None:
        buffers = _stack([p.momentum for p in pupils if p.momentum is not None], pupils[0])
        for parameter, buffer in zip(parameters, buffers, strict=True):
            optimizer.state[parameter]["momentum_buffer"] = buffer
    corrections = _stack([p.h for p in pupils if p.h is not None], pupils[0])
    inputs, targets = _samples(pupils)
    loss_of = vmap(lambda values, x, y: first.loss(functional_call(first.model, values, (x,)), y))
    first.model.train()
    losses = torch.zeros(len(pupils))
    for x, y in zip(inputs, targets, strict=True):
        optimizer.zero_grad()
        loss = loss_of(dict(zip(names, parameters, strict=True)), x, y)
        loss.sum().backward()  # type: ignore[no-untyped-call]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if len(gradients) < len(parameters):
            raise RuntimeError("the loss does not depend on every parameter")
        for gradient, h in zip(gradients, corrections, strict=bool(corrections)):
            gradient.sub_(h)
        optimizer.step()
        losses += loss.detach()
    models = _rows(parameters)
    momenta = [optimizer.state[p].get("momentum_buffer") for p in parameters]
    rows = _rows(momenta) if all(isinstance(buffer, Tensor) for buffer in momenta) else None
    for at, pupil in enumerate(pupils):
        momentum = None if rows is None else rows[at]
        pupil.result = models[at], momentum, losses[at] / len(inputs)


def appearance(learner: Learner) -> bytes | None:
    """What alike learners have in common; None for one that cannot be stacked."""
    if type(learner) is not TorchLearner or type(learner.batches) is not Batches:
        return None
    parameters, optimizer = list(learner.model.parameters()), learner.optimizer
    if type(optimizer) is not SGD or len(optimizer.param_groups) != 1:
        return None
    plain = all(p.requires_grad and p.dtype == torch.float32 for p in parameters)
    same = list(map(id, optimizer.param_groups[0]["params"])) == list(map(id, parameters))
    shared = sum(p.numel() for p in parameters) == learner.layout.size
    local = all(t.device.type == "cpu" for t in (*parameters, learner.batches.inputs))
    buffers = any(True for _ in learner.model.buffers())
    hooks = len(optimizer._optimizer_step_pre_hooks) - (learner.drift is not None)
    hooks += len(optimizer._optimizer_step_post_hooks)
    others = set(optimizer.param_groups[0]) - {"params", *optimizer.defaults}  # of a scheduler
    if not (plain and same and shared and local) or buffers or hooks or others:
        return None
    out = io.BytesIO()
    try:
        _WithoutParameters(out, parameters).dump(
            (learner.model, learner.loss, learner.drift is None)
        )
    except Exception:  # it has something that cannot be pickled, and so not be compared
        return None
    return out.getvalue()


class _WithoutParameters(pickle.Pickler):
    """Pickles a model as it would be with any other parameters. A loss with parameters of its own
    is refused: those are not stacked."""

    def __init__(self, out: io.BytesIO, parameters: Sequence[nn.Parameter]) -> None:
        super().__init__(out)
        self._dropped = set(map(id, parameters))

    def persistent_id(self, thing: Any) -> Any:
        """What stands for a parameter."""
        if not isinstance(thing, nn.Parameter):
            return None
        if id(thing) not in self._dropped:
            raise pickle.PicklingError("a parameter that is not the model's")
        return tuple(thing.shape)


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}


def _stack(vectors: Sequence[Tensor], like: Pupil) -> list[Tensor]:
    """(m,) each, as one tensor for each parameter, (b, ...); nothing of no vectors."""
    if not vectors:
        return []
    sizes = [p.numel() for p in like.parameters]
    pieces = torch.split(torch.stack(list(vectors)), sizes, dim=1)
    return [
        piece.reshape(-1, *p.shape).contiguous()
        for piece, p in zip(pieces, like.parameters, strict=True)
    ]


def _rows(tensors: Sequence[Tensor]) -> Tensor:
    """(b, ...) each, as (b, n)."""
    return torch.cat([tensor.detach().flatten(1) for tensor in tensors], dim=1)


def _samples(pupils: Sequence[Pupil]) -> tuple[list[Tensor], list[Tensor]]:
    """The batches of a round: (b, batch, ...) inputs and targets, step by step."""
    columns: list[list[Tensor]] = []
    for which in ("inputs", "targets"):
        rows = [getattr(pupil.data, which).index_select(0, pupil.order) for pupil in pupils]
        columns.append(list(torch.split(torch.stack(rows), list(pupils[0].sizes), dim=1)))
    return columns[0], columns[1]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
