"""Many rounds of training in one call.

`torch.func.vmap` over the model and the loss, and the learners' own optimizer class over the stack,
whose models lie along a new first dimension. A stack is all that its outcome depends on, tensors
and a template, so whoever computes it, another thread or another machine, finds the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.optim import SGD

from gossip.learner import Loss


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """What alike learners have in common: a model, whose parameters do not count, and a loss."""

    model: nn.Module
    loss: Loss

    @classmethod
    def of(cls, model: nn.Module, loss: Loss) -> Template:
        """A copy, which training leaves alone."""
        return cls(deepcopy(model).train(), loss)

    def split(self, vectors: Tensor) -> list[Tensor]:
        """(b, n) as one tensor for each parameter, (b, ...)."""
        parameters = list(self.model.parameters())
        pieces = torch.split(vectors, [p.numel() for p in parameters], dim=1)
        return [
            piece.reshape(-1, *p.shape).contiguous()
            for piece, p in zip(pieces, parameters, strict=True)
        ]


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """One round of each of b learners."""

    template: Template
    settings: Mapping[str, Any]  # of SGD
    sizes: Sequence[int]  # of the batches, the same for all
    models: Tensor  # (b, n)
    momenta: Tensor | None  # (b, n); None: no step was taken yet, or there is no momentum
    corrections: Tensor | None  # (b, n) what is subtracted from gradients
    inputs: Tensor  # (b, samples, ...)
    targets: Tensor  # (b, samples, ...)


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What a stack came to."""

    models: Tensor  # (b, n)
    momenta: Tensor | None  # (b, n)
    losses: Tensor  # (b,) mean over the batches

    def row(self, at: int) -> tuple[Tensor, Tensor | None, Tensor]:
        """One learner's model, momentum and loss."""
        return self.models[at], None if self.momenta is None else self.momenta[at], self.losses[at]


def compute(stack: Stack) -> Outcome:
    """Train. Raises RuntimeError for a model that `vmap` cannot do."""
    template = stack.template
    model = deepcopy(template.model)  # parameters are put into it, and others may compute as well
    names = [name for name, _ in model.named_parameters()]
    parameters = [nn.Parameter(piece) for piece in template.split(stack.models)]
    optimizer = SGD(parameters, **stack.settings)
    if stack.momenta is not None:
        for parameter, buffer in zip(parameters, template.split(stack.momenta), strict=True):
            optimizer.state[parameter]["momentum_buffer"] = buffer
    corrections = [] if stack.corrections is None else template.split(stack.corrections)
    loss_of = vmap(lambda values, x, y: template.loss(functional_call(model, values, (x,)), y))
    losses = torch.zeros(len(stack.models))
    inputs, targets = (
        torch.split(each, list(stack.sizes), dim=1) for each in (stack.inputs, stack.targets)
    )
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
    momenta = [optimizer.state[p].get("momentum_buffer") for p in parameters]
    with_momentum = all(isinstance(buffer, Tensor) for buffer in momenta)
    rows = _rows(momenta) if with_momentum else None
    return Outcome(_rows(parameters), rows, losses / len(stack.sizes))


def _rows(tensors: Sequence[Tensor]) -> Tensor:
    """(b, ...) each, as (b, n)."""
    return torch.cat([tensor.detach().flatten(1) for tensor in tensors], dim=1)
