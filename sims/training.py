"""Rounds of training, held back and computed together.

A round's outcome is needed only at the virtual time at which the round ends, and what goes into it
is known when it begins. So rounds wait until the first of them ends, or until half of all that are
alike (one architecture, loss, optimizer and batch shapes) wait; then those are computed in one call
(`sims.stack`), by whom an engine says (`sims.engines`), while events go on. What is computed early
is held back, and nobody sees it before its time.

**The same numbers.** Each learner keeps its own stream of random numbers and its own optimizer
state. Where every batch of activations and every parameter is a whole number of 16 bytes, what a
stack computes for one learner does not depend on the others in it, so the trace is the same whether
a hundred rounds are computed at a time or one. Elsewhere, and in convolutions and sigmoids, a
kernel may round the last bit by where in memory a row begins; what is in a stack is decided by
virtual time alone, so the same seed still gives the same bytes, but another size of the stack gives
others. (Measured, on MKL.) Which engine computes it changes nothing. A round computed by
`TorchLearner.train` itself differs in the last bits too, because an unbatched product adds the bias
in another order. Hence the choice between the two must not depend on a clock: fewer than FEW rounds
of a kind are left to the learners, which is where a stack begins to pay (measured, see FEW), and so
are models so large that a stack gains nothing.

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
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from math import isfinite
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import SGD

from gossip.drift import DriftCorrection, learn
from gossip.learner import Batch, Batches, Learner, TorchLearner
from sims.engines import Engine, Here
from sims.stack import Outcome, Stack, Template

FEW = 4  # rounds. On the 64-64-10 MLP a stack takes 8 ms however few it holds, a learner 3.2 ms.
ENOUGH = 64  # rounds that are worth a stack before one of them is needed. A guess.
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
    """Holds rounds back until one of them is needed, or enough of them wait.

    Args:
        most: rounds in one stack. 1: one by one, with the same bits.
        engine: computes stacks.
    """

    def __init__(self, most: int = MOST, engine: Engine | None = None) -> None:
        self.stacked = 0  # rounds so far
        self.single = 0
        self.refused: dict[bytes, str] = {}  # architectures that vmap cannot do, and why
        self._most = most
        self._engine = engine or Here()
        self._looks: dict[bytes, bytes] = {}  # each appearance once
        self._templates: dict[bytes, Template] = {}  # of each
        self._enrolled: Counter[bytes] = Counter()
        self._pending: dict[Kind, dict[Pupil, None]] = {}

    def enrol(self, learner: Learner) -> Trainee:
        """What trains this learner from now on."""
        look = appearance(learner)
        if look is None:
            return Alone(learner)
        assert isinstance(learner, TorchLearner)
        look = self._looks.setdefault(look, look)
        self._enrolled[look] += 1
        return Pupil(learner, look, self)

    def wait(self, pupil: Pupil) -> None:
        """A round may be computed from now on."""
        waiting = self._pending.setdefault(pupil.kind, {})
        waiting[pupil] = None
        if len(waiting) >= max(ENOUGH, self._enrolled[pupil.look] // 2) and self._pays(pupil):
            self._submit(pupil.kind)

    def leave(self, pupil: Pupil) -> None:
        """This one trains no more."""
        self._enrolled[pupil.look] -= 1
        self._forget(pupil)

    def compute(self, pupil: Pupil) -> tuple[Tensor, Tensor | None, Tensor] | None:
        """The model, the momentum and the loss that this round came to; None: it is to be computed
        by the learner itself. All others of its kind that wait are computed with it."""
        if pupil.row is None and self._pays(pupil):
            self._submit(pupil.kind)
        if pupil.row is not None:
            (job, at), pupil.row = pupil.row, None
            try:
                return job.result().row(at)
            except RuntimeError as error:
                self.refused[pupil.look] = str(error)
                self.stacked -= 1
        self._forget(pupil)
        self.single += 1
        return None

    def _pays(self, pupil: Pupil) -> bool:
        """Whether the rounds that wait with this one are worth a stack."""
        if pupil.look in self.refused:
            return False
        return min(len(self._pending[pupil.kind]), STACK_BYTES // (4 * pupil.model.numel())) >= FEW

    def _submit(self, kind: Kind) -> None:
        group = list(self._pending.pop(kind))
        most = min(self._most, STACK_BYTES // (4 * group[0].model.numel()))
        for start in range(0, len(group), most):
            members = group[start : start + most]
            job = self._engine.submit(self._stack(members))
            for at, pupil in enumerate(members):
                pupil.row = job, at
        self.stacked += len(group)

    def _stack(self, pupils: Sequence[Pupil]) -> Stack:
        """The rounds of these, which are alike."""
        first = pupils[0]
        if first.look not in self._templates:
            self._templates[first.look] = Template.of(first.learner.model, first.learner.loss)
        group = first.learner.optimizer.param_groups[0]
        momenta = [p.momentum for p in pupils if p.momentum is not None]
        corrections = [p.h for p in pupils if p.h is not None]
        return Stack(
            self._templates[first.look],
            {name: value for name, value in group.items() if name != "params"},
            first.sizes,
            torch.stack([p.model for p in pupils]),
            torch.stack(momenta) if momenta else None,
            torch.stack(corrections) if corrections else None,
            *(torch.stack(column) for column in zip(*(p.samples() for p in pupils), strict=True)),
        )

    def _forget(self, pupil: Pupil) -> None:
        waiting = self._pending.get(pupil.kind, {})
        waiting.pop(pupil, None)
        if not waiting:
            self._pending.pop(pupil.kind, None)


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
        self.kind: Kind = ()  # of this round
        self.row: tuple[Future[Outcome], int] | None = None  # where its outcome will be
        self._pass: Iterator[Tensor] = iter(())
        self._shown = False  # the learner wants no more samples to probe with
        self._training = training
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
        self.kind = (self.look, self.sizes, shapes, settings, self.momentum is None)
        self._training.wait(self)

    def finish(self) -> tuple[Tensor, int]:
        """Have the round computed if it is not yet, and take it over."""
        outcome = self._training.compute(self)
        if outcome is None:
            self.learner.train_on(self._batches())
            self._adopt_momentum()
        else:
            model, momentum, loss = outcome
            self.model.copy_(model)
            self._take_momentum(momentum)
            self._show_samples()
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
        self._training.leave(self)

    def samples(self) -> tuple[Tensor, Tensor]:
        """Of all batches of this round in a row: inputs and targets."""
        assert self.data is not None
        assert self.order is not None
        return self.data.inputs[self.order], self.data.targets[self.order]

    def _show_samples(self) -> None:
        """Let the learner keep the first that it was trained on, as it does when it trains."""
        if self._shown:
            return
        for batch in self._batches():
            if not self.learner.trained_on(batch):
                self._shown = True
                break

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
