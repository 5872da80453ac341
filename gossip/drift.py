"""The drift correction: a control variate against data that differ from node to node.

Where nodes see different data, each local round pulls the model towards its own data, and each
merge pulls it back. So what merges do to a model tells, averaged over time, how its gradient
differs from everybody's. Each node keeps that difference, `h`, and trains without it:

    on a step     the optimizer sees  gradient - h
    on a merge    h <- (1 - LEAK) h + strength / rate * (x after the merge - x before)
    rate          = steps in a round * lr (1 - dampening) / (1 - momentum)

`rate` is how far a constant gradient of 1 moves the model in a round, so `h` has the unit of a
gradient and `strength` has none. It is the method of Scaffnew (Mishchenko, Malinovsky, Stich,
Richtarik, "ProxSkip", ICML 2022) with pairwise, compressed merges in the place of exact averages;
hence a strength below its 1.

`rate` takes the steps in a round from the settings, not the steps since the last merge. The sum of
`h` over all nodes then stays 0, because a merge moves two models by opposite amounts; dividing by
what happened to lie between two merges makes that sum wander, which pushes all models together in
one direction: measured, it collapses now and then (0.97 to 0.3) where this does not. The sum is
also lost where a node restarts without its `h`, which is why checkpoints hold it, and where one
never comes back; so `h` leaks.

Measured on digits, the worst of 5 nodes that see two classes each, after 400 rounds in which two
pairs merge, five seeds: with exact merges 0.95 to 0.97, without the correction 0.82 to 0.89; with
the default codec (top 10 %, 3 bits) 0.92 to 0.96, without 0.58 to 0.73. On even data it changes
nothing beyond noise. At 3 % of the differences twice the default strength diverges.

The leak is dear: with 16 nodes of two classes each, 300 rounds, top 5 % at 3 bits, images end at
0.938 with a leak of 0.01 and at 0.977 with 0.003 (AD-PSGD in float32: 0.982). With less, a node
that restarts without its `h` harms the others for hundreds of rounds; with 0.01 for 50.

What it costs: one more copy of the trainable parameters for `h`, another while a merge is loaded.
It does not touch parameters with sparse gradients, and does not see gradients that a closure
computes inside `optimizer.step`. Not measured: weight decay, schedules of the learning rate, deep
networks with normalisation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, Optimizer

STRENGTH = 0.1
LEAK = 0.003  # of h, a merge


class DriftCorrection:
    """Corrects the gradients that `optimizer` steps with; write merged models in `merging`.

    Until the second merge the optimizer is left alone: the first may replace the model by one that
    others have trained, which says nothing about the gradients here.

    Args:
        optimizer: hooked into for good; lr and momentum may change while it runs.
        steps: of the optimizer in one round, that is between two times to merge.
        strength: above 0; up to 0.1 is stable at 3 % of the differences sent, see above.
    """

    def __init__(self, optimizer: SGD, steps: int, strength: float = STRENGTH) -> None:
        if not 0 < strength <= 1:
            raise ValueError(f"the strength of the drift correction is in (0, 1], not {strength}")
        self._optimizer = optimizer
        self._steps = steps
        self._strength = strength
        self._h: dict[Parameter, Tensor] = {}
        self._stepped = False  # since the last merge
        self._merged = False  # ever, after a step
        optimizer.register_step_pre_hook(self._before_step)

    @property
    def h(self) -> Mapping[Parameter, Tensor]:
        """What is subtracted from each parameter's gradient; a live view."""
        return self._h

    def resume(self, h: Mapping[Parameter, Tensor]) -> None:
        """Go on with the `h` of an earlier life; nothing is learned from the next merge, which
        brings what the others did meanwhile."""
        self.keep_in(h)
        self._merged = False

    def keep_in(self, h: Mapping[Parameter, Tensor]) -> None:
        """From now on `h` is in these tensors, and is what they hold."""
        self._h = dict(h)

    @contextmanager
    def merging(self) -> Iterator[None]:
        """Write the merged model to the parameters inside this."""
        learning = self.merge()
        before = {p: p.detach().clone() for p in self._parameters()} if learning else {}
        yield
        if learning:
            self._learn(before)

    def merge(self) -> bool:
        """A merged model is about to be loaded; whether there is something to learn from it."""
        learning = self._stepped and self._merged
        self._merged |= self._stepped
        self._stepped = False
        return learning

    def stepped(self) -> None:
        """The optimizer's steps were made elsewhere, with `h` subtracted."""
        self._stepped = True

    def gain(self, group: dict[str, Any]) -> float:
        """What of a move enters `h`, for the parameters of one group of the optimizer."""
        rate = self._steps * _rate(group)
        return self._strength / rate if rate else 0.0

    def _parameters(self) -> Iterator[Parameter]:
        for group in self._optimizer.param_groups:
            yield from (p for p in group["params"] if p.requires_grad)

    @torch.no_grad()
    def _learn(self, before: dict[Parameter, Tensor]) -> None:
        for group in self._optimizer.param_groups:
            gain = self.gain(group)
            for parameter in group["params"]:
                if parameter not in before or gain == 0:
                    continue
                moved = (parameter - before[parameter]).float()
                if not bool(torch.isfinite(moved).all()):
                    # Training had failed and a good model replaces it: what led there is no guide.
                    self._h.clear()
                    return
                learn(self._h.setdefault(parameter, torch.zeros_like(moved)), moved, gain)

    @torch.no_grad()
    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._stepped = True
        # A fused optimizer under a GradScaler unscales its gradients itself, later than this.
        scale = getattr(optimizer, "grad_scale", None)
        for parameter, h in self._h.items():
            if parameter.grad is not None and not parameter.grad.is_sparse:
                parameter.grad.sub_(h if scale is None else h * scale)


def learn(h: Tensor, moved: Tensor, gain: float) -> None:
    """Let `h` learn from how far a merge has moved the model; `gain` is of that group."""
    h.mul_(1 - LEAK).add_(moved, alpha=gain)


def _rate(group: dict[str, Any]) -> float:
    """How far a lasting gradient of 1 moves a parameter in a step; negative when maximizing.

    0, which turns the correction off, where that has no limit (momentum 1).
    """
    rate = float(group["lr"])
    momentum = float(group["momentum"])
    if momentum >= 1:
        return 0.0
    if momentum > 0:
        rate *= (1 - group["dampening"]) / (1 - momentum)
    return -rate if group["maximize"] else rate
