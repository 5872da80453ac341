"""What of a training loop the network touches: a model, an optimizer, and the drift correction.

Everything here runs in the thread that trains.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import nullcontext

from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from gossip import resume
from gossip.drift import DriftCorrection
from gossip.vector import Selection, add, flatten, layout, load

log = logging.getLogger("gossip")


class Training:
    """A model and its optimizer, as a vector that is read and changed in place.

    Args:
        steps: of the optimizer between two merges, for the drift correction.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer | None, steps: int, selection: Selection
    ) -> None:
        self.layout = layout(model, selection)
        self._model = model
        self._optimizer = optimizer
        self._drift = DriftCorrection(optimizer, steps) if isinstance(optimizer, SGD) else None
        self._selection = selection

    def flatten(self, out: Tensor) -> Tensor:
        """The model's values, into (n,) float32."""
        return flatten(self._model, out, self._selection)

    def load(self, vector: Tensor) -> None:
        """Replace the model's values by (n,) float32."""
        load(self._model, vector, self._selection)

    def add(self, change: Tensor) -> None:
        """Take in a merge, (n,) float32; `change` then holds the model, as after `vector.add`."""
        with self._drift.merging() if self._drift else nullcontext():
            add(self._model, change, self._selection)

    def state(self) -> resume.State:
        """A copy of what is kept besides what is shared; see `gossip.resume`."""
        return resume.state(self._model, self._optimizer, self._drift, self._selection)

    def restore(self, kept: Mapping[str, Tensor]) -> None:
        """Go on with what `state` gave; if it does not fit any more, begin anew and say so."""
        if not kept:
            return
        try:
            resume.restore(kept, self._model, self._optimizer, self._drift, self._selection)
        except ValueError as error:
            log.warning(
                "what training kept does not fit any more: %s; the model goes on from the "
                "checkpoint, the optimizer begins anew",
                error,
            )
