"""Your model and your data.

A learner is all that the network knows about machine learning: a vector that it can read and
replace, a verb that improves it for a while on local data, and a verb that says how good it is.
Write one yourself, or give `TorchLearner` the usual four things: a model, batches, a loss and an
optimizer.

Reproducibility. Nothing here draws from the global random generator on its own account: `Batches`
shuffles with the generator it is given, `evaluate` leaves the global state as it was. What the
model draws while training (dropout) comes from PyTorch's global generator, as always; with `seed`
each `train` runs on a stream of its own and leaves the global state as it was. That state belongs
to the process, so a thread that draws from it at the same time still disturbs the stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from math import nan
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from gossip import resume
from gossip.drift import STRENGTH, DriftCorrection
from gossip.vector import Layout, Selection, flatten, layout, load

Batch = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
Metrics = Callable[[Tensor, Tensor], Mapping[str, float]]
OptimizerOf = Callable[[Iterable[nn.Parameter]], Optimizer]
Prepare = Callable[[Any], Tensor]
Answer = Callable[[Tensor], object]

PROBED = 64  # samples; a guess
EVALUATION_BATCH = 1024  # samples a forward pass; bounds memory; a guess


class Learner(Protocol):
    """A model with its data; called from one thread at a time."""

    @property
    def layout(self) -> Layout:
        """What the parameters mean; peers merge only models of equal layout."""
        ...

    def parameters(self) -> Tensor:
        """A copy of the model, (n,) float32; always on one device, where all vectors then live."""
        ...

    def load(self, parameters: Tensor) -> None:
        """Replace the model by (n,) float32."""
        ...

    def train(self) -> int:
        """Train one local round of bounded length; return the number of samples seen."""
        ...

    def evaluate(self) -> dict[str, float]:
        """Say how good the model is now, by name of metric."""
        ...


@runtime_checkable
class Resumable(Protocol):
    """What a learner may do besides: say what training keeps on this node, to be saved beside the
    model, and take it over after a restart."""

    def state(self) -> dict[str, Tensor]:
        """A copy, by names of your own."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on with it; the model is loaded already. Raises ValueError if it does not fit."""
        ...


@runtime_checkable
class Probing(Protocol):
    """What a learner may do besides: measure models that are not its own, so that its node can tell
    whom to trust (`gossip.trust`)."""

    def probe(self, parameters: Tensor) -> tuple[float, float]:
        """The losses of (n,) float32 and of the model in use, which stays in use, on one small
        batch that is always the same."""
        ...


@runtime_checkable
class Answering(Protocol):
    """What a learner may do besides: answer raw inputs, for whoever serves it."""

    def predict(self, raw: Sequence[Any]) -> list[object]:
        """One answer to each input, in the types of JSON.

        An input is the bytes of a file or a value of JSON; the learner says which. Raises
        ValueError, with the reason, for one that it cannot read.
        """
        ...


class Batches:
    """Mini-batches of two tensors, in a new order on every pass.

    A pass cuts the samples into the fewest batches of at most `batch_size`, of even size: a rest of
    one sample would be a noisy step, and an error in BatchNorm. Raises ValueError on no samples,
    on unequal lengths and on a batch size below 1.
    """

    def __init__(
        self, inputs: Tensor, targets: Tensor, batch_size: int, generator: torch.Generator
    ) -> None:
        if len(inputs) != len(targets):
            raise ValueError(f"{len(inputs)} inputs and {len(targets)} targets do not pair up")
        if len(inputs) == 0:
            raise ValueError("no samples to train on: inputs and targets are empty")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self.inputs = inputs
        self.targets = targets
        self.batch_size = batch_size
        self.generator = generator

    def __len__(self) -> int:
        return -(-len(self.inputs) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for chosen in self.orders():
            yield self.inputs[chosen], self.targets[chosen]

    def orders(self) -> Iterator[Tensor]:
        """Which samples are in each batch of a new pass."""
        order = torch.randperm(len(self.inputs), generator=self.generator)
        return iter(order.tensor_split(len(self)))


def plain_sgd(parameters: Iterable[nn.Parameter]) -> Optimizer:
    """SGD with a learning rate of 0.1 and nothing else."""
    return SGD(parameters, lr=0.1)


class TorchLearner:
    """A learner made of a model, batches, a loss and an optimizer.

    `batches` is iterated again and again: a `DataLoader`, a list of pairs, `Batches`. `optimizer`
    is one over this model's parameters, or a function that makes one (`torch.optim.Adam`); its
    state stays here when a merged model is loaded. `steps` is the number of batches in one `train`.

    `evaluate` runs the model on all of `test` and returns the loss and what `metrics(outputs,
    targets)` returns; by default the accuracy, if the targets are classes. Without `test` it
    returns nothing. Batches and test samples are moved to the model's device.

    `drift_correction` is the strength of what `gossip.drift` does against data that differ from
    node to node: 0 for nothing; by default 0.1 with SGD and nothing with other optimizers, where it
    is not defined. It begins with the second merged model that is loaded; before, training is
    what a plain loop would do.

    `share` and `keep` are patterns of the names of what is learned together and of what stays here
    (`gossip.vector.Selection`): `share=["*lora_*"]` for adapters alone, `keep=["head.*"]` for a
    head of one's own. `device` is where the vectors live, one for each neighbour and two more; the
    model may be elsewhere.

    `predict` answers raw inputs: `prepare` makes of one the input of the model, without the
    dimension of the batch, and `answer` of one output what JSON can say. By default inputs and
    answers are nested lists of numbers.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[Batch],
        loss: Loss,
        optimizer: Optimizer | OptimizerOf = plain_sgd,
        *,
        steps: int = 10,
        test: Batch | None = None,
        metrics: Metrics | None = None,
        seed: int | None = None,
        drift_correction: float | None = None,
        share: Sequence[str] | None = None,
        keep: Sequence[str] = (),
        device: torch.device | str = "cpu",
        prepare: Prepare = torch.tensor,
        answer: Answer = Tensor.tolist,
    ) -> None:
        if steps < 1:
            raise ValueError(f"steps must be at least 1, not {steps}")
        if test is not None and not 0 < len(test[0]) == len(test[1]):
            raise ValueError(
                f"the test set needs as many targets as inputs, at least one: "
                f"it has {len(test[0])} inputs and {len(test[1])} targets"
            )
        self.model = model
        self.batches = batches
        self.loss = loss
        self.optimizer = _optimizer_over(model, optimizer)
        self.steps = steps
        self.test = test
        self.metrics = metrics if metrics is not None else class_accuracy
        self.prepare, self.answer = prepare, answer
        self.last_loss: float | None = None  # mean over the batches of the last `train`
        self._selection = Selection.of(share, keep)
        self._layout = layout(model, self._selection)
        self._vectors = torch.device(device)
        self.drift = _drift_correction(self.optimizer, steps, drift_correction)  # None: off
        self._pass: Iterator[Batch] = iter(())
        self._probed: list[Batch] = []  # the first that were trained on
        self._seeds = None if seed is None else torch.Generator().manual_seed(seed)

    @property
    def layout(self) -> Layout:
        """The layout of the model, as it was on construction."""
        return self._layout

    @property
    def selection(self) -> Selection:
        """What of the model is shared."""
        return self._selection

    def parameters(self) -> Tensor:
        """A copy of what is shared of the model, (n,) float32."""
        vector = torch.empty(self._layout.size, device=self._vectors)
        return flatten(self.model, vector, self._selection)

    def load(self, parameters: Tensor) -> None:
        """Replace the model's values, in place, by (n,) float32; the optimizer keeps its state."""
        with self.drift.merging() if self.drift is not None else nullcontext():
            load(self.model, parameters, self._selection)

    def state(self) -> dict[str, Tensor]:
        """What training keeps besides the shared model: see `gossip.resume`."""
        return resume.state(self.model, self.optimizer, self.drift, self._selection)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on with it. Raises ValueError if it is of another optimizer or model."""
        resume.restore(state, self.model, self.optimizer, self.drift, self._selection)

    def train(self) -> int:
        """Take `steps` optimizer steps; return the number of samples seen.

        Raises ValueError when `batches` has nothing to give.
        """
        if self._seeds is None:
            return self._train()
        with _private_randomness(self._device()):
            _seed_generators(self._device(), _draw_seed(self._seeds))
            return self._train()

    def train_on(self, batches: Iterable[Batch]) -> int:
        """`train` on these, of which there are `steps`, in place of our own."""
        mine, self._pass = self._pass, iter(batches)
        try:
            return self.train()
        finally:
            self._pass = mine

    def trained_on(self, batch: Batch) -> bool:
        """Keep the first samples, to probe with, and say whether more are wanted; for whoever
        trains in our place."""
        missing = PROBED - sum(len(inputs) for inputs, _ in self._probed)
        if missing > 0:
            inputs, targets = batch
            self._probed.append((inputs[:missing].clone(), targets[:missing].clone()))
        return missing > len(batch[0])

    def evaluate(self) -> dict[str, float]:
        """Loss and metrics on the test set; empty without one."""
        if self.test is None:
            return {}
        device = self._device()
        inputs, targets = self.test
        with _private_randomness(device), _evaluation_mode(self.model), torch.no_grad():
            pieces = [
                self.model(piece.to(device)) for piece in torch.split(inputs, EVALUATION_BATCH)
            ]
            outputs, targets = torch.cat(pieces), targets.to(device)
            return {
                "loss": float(self.loss(outputs, targets)),
                **{name: float(value) for name, value in self.metrics(outputs, targets).items()},
            }

    def probe(self, parameters: Tensor) -> tuple[float, float]:
        """The losses of (n,) float32 and of the model in use, on the first samples trained on.

        NaN before there are any, and for a model on which the loss raises. Two forward passes; the
        model is written to and put back, to the bit.
        """
        ours = self._probed_loss()
        mine = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        load(self.model, parameters, self._selection)
        try:
            return self._probed_loss(), ours
        except Exception:  # a stranger's model may answer what the user's loss does not take
            return nan, ours
        finally:
            with torch.no_grad():
                for name, tensor in self.model.state_dict().items():
                    tensor.copy_(mine[name])

    def _probed_loss(self) -> float:
        device = self._device()
        if not self._probed:
            return nan
        with _private_randomness(device), _evaluation_mode(self.model), torch.no_grad():
            losses = [
                float(self.loss(self.model(inputs.to(device)), targets.to(device)))
                for inputs, targets in self._probed
            ]
        return sum(losses) / len(losses)

    def predict(self, raw: Sequence[Any]) -> list[object]:
        """One answer to each raw input; ValueError for one that cannot be read."""
        device = self._device()
        inputs = [self.prepare(one) for one in raw]
        with _private_randomness(device), _evaluation_mode(self.model), torch.no_grad():
            outputs = [
                self.model(torch.stack(inputs[start : start + EVALUATION_BATCH]).to(device)).cpu()
                for start in range(0, len(inputs), EVALUATION_BATCH)
            ]
        return [self.answer(output) for piece in outputs for output in piece]

    def _train(self) -> int:
        self.model.train()
        device = self._device()
        samples, total = 0, torch.zeros((), device=device)
        for _ in range(self.steps):
            inputs, targets = self._next_batch()
            self.optimizer.zero_grad()
            loss = self.loss(self.model(inputs.to(device)), targets.to(device))
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            total += loss.detach()
            samples += len(inputs)
        self.last_loss = float(total) / self.steps
        return samples

    def _next_batch(self) -> Batch:
        batch = next(self._pass, None)
        if batch is None:
            self._pass = iter(self.batches)
            batch = next(self._pass, None)
        if batch is None:
            raise ValueError(
                f"batches ({type(self.batches).__name__}) has no batch to give: it is empty, or "
                f"can be iterated only once; use a DataLoader, a list of pairs, or gossip's Batches"
            )
        self.trained_on(batch)
        return batch

    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


def class_accuracy(outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """The share of right classes, outputs (N, C, ...) against targets (N, ...).

    Empty where the targets are not classes: not integers, or not one dimension less.
    """
    if targets.is_floating_point() or outputs.dim() != targets.dim() + 1:
        return {}
    return {"accuracy": (outputs.argmax(dim=1) == targets).float().mean().item()}


def _optimizer_over(model: nn.Module, optimizer: Optimizer | OptimizerOf) -> Optimizer:
    if not isinstance(optimizer, Optimizer):
        return optimizer(model.parameters())
    updated = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(p) in updated for p in model.parameters()):
        raise ValueError(
            f"this {type(optimizer).__name__} updates none of the model's parameters: "
            f"make it from model.parameters(), after any copy of the model"
        )
    return optimizer


def _drift_correction(
    optimizer: Optimizer, steps: int, strength: float | None
) -> DriftCorrection | None:
    if strength == 0:
        return None
    if isinstance(optimizer, SGD):
        return DriftCorrection(optimizer, steps, STRENGTH if strength is None else strength)
    if strength is not None:
        raise ValueError(
            f"drift_correction={strength} needs torch.optim.SGD, not {type(optimizer).__name__}: "
            f"leave it out, or use SGD"
        )
    return None


@contextmanager
def _private_randomness(device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    # Module by module: model.train() afterwards would thaw what the user has put in eval mode.
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _draw_seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**62, (), generator=generator))


def _seed_generators(device: torch.device, seed: int) -> None:
    # Not torch.manual_seed, which also seeds every other device, and nobody would restore those.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
