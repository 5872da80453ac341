"""What training keeps besides the model that is shared, as tensors by name.

A node that starts again from its checkpoint has the shared model; this is the rest: the drift
correction's `h`, the optimizer's state (momentum, Adam's moments), and what of the module stays
local (a head of one's own, BatchNorm's counters). It never leaves the node.

    h.3                       of parameter 3, counted through the optimizer's groups
    SGD.3.momentum_buffer     so that another optimizer does not take it for its own
    model.head.bias           what `gossip.vector.local` names

It is up to twice the model for SGD with momentum and the correction, in the checkpoint and, with a
state directory, in memory: the last copy is what is saved if nobody can be asked. An optimizer
whose state is more than tensors (LBFGS) begins anew.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer

from gossip.drift import DriftCorrection
from gossip.vector import Selection, local

State = dict[str, Tensor]


def state(
    model: nn.Module,
    optimizer: Optimizer | None,
    drift: DriftCorrection | None,
    selection: Selection,
) -> State:
    """A copy of all that is needed to go on as if nothing had happened.

    What holds NaN is left out, and of the optimizer infinity too: it would spoil every later life.
    """
    kept = {
        f"model.{name}": tensor
        for name, tensor in local(model, selection)
        if not bool(torch.isnan(tensor).any())
    }
    for index, parameter in enumerate(_parameters(optimizer)):
        if drift is not None and parameter in drift.h:
            kept[f"h.{index}"] = drift.h[parameter]
        values = optimizer.state.get(parameter, {}) if optimizer else {}
        if all(value is None or _sound(value) for value in values.values()):
            for key, value in values.items():
                if value is not None:
                    kept[f"{type(optimizer).__name__}.{index}.{key}"] = value
    return {name: tensor.detach().clone() for name, tensor in kept.items()}


def restore(
    kept: Mapping[str, Tensor],
    model: nn.Module,
    optimizer: Optimizer | None,
    drift: DriftCorrection | None,
    selection: Selection,
) -> None:
    """Take it over. Raises ValueError, with nothing changed, if it is of another kind of training.

    A drift correction that is off now leaves its `h` aside.
    """
    parameters = _parameters(optimizer)
    tensors = dict(local(model, selection))
    writes: list[tuple[Tensor, Tensor]] = []
    hs: dict[Parameter, Tensor] = {}
    values: dict[Parameter, State] = {}
    for name, tensor in kept.items():
        kind, _, rest = name.partition(".")
        if kind == "model":
            if rest not in tensors or tensors[rest].shape != tensor.shape:
                raise ValueError(f"the model has no local {rest} of shape {list(tensor.shape)}")
            writes.append((tensors[rest], tensor))
            continue
        if kind not in ("h", type(optimizer).__name__):
            known = type(optimizer).__name__ if optimizer else "a loop whose optimizer we know"
            raise ValueError(f"{name} is not of {known}")
        parameter, key = _place(name, rest, tensor, parameters)
        if kind == "h":
            hs[parameter] = tensor.to(parameter.device, copy=True)
        else:  # a count of steps stays where its optimizer keeps it, on the CPU
            device = parameter.device if tensor.dim() else tensor.device
            values.setdefault(parameter, {})[key] = tensor.to(device, copy=True)
    with torch.no_grad():
        for mine, saved in writes:
            mine.copy_(saved)
    for parameter, found in values.items():
        assert optimizer is not None  # without one there are no parameters
        optimizer.state[parameter] = found
    if drift is not None:
        drift.resume(hs)


def _place(
    name: str, rest: str, tensor: Tensor, parameters: list[Parameter]
) -> tuple[Parameter, str]:
    """The parameter that a tensor belongs to, and what its optimizer calls it."""
    index, _, key = rest.partition(".")
    if not index.isdecimal() or int(index) >= len(parameters):
        raise ValueError(f"the optimizer has {len(parameters)} parameters and no {name}")
    parameter = parameters[int(index)]
    if tensor.dim() == parameter.dim() and tensor.shape != parameter.shape:
        raise ValueError(f"{name} is of shape {list(tensor.shape)}, not {list(parameter.shape)}")
    return parameter, key


def _sound(value: object) -> bool:
    return isinstance(value, Tensor) and bool(torch.isfinite(value).all())


def _parameters(optimizer: Optimizer | None) -> list[Parameter]:
    if optimizer is None:
        return []
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
