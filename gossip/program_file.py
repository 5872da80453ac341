"""I/O: a model as a program, which runs where we are not.

    model.onnx     ONNX; needs the extra `onnx`, which also runs it
    model.pt2      torch.export
    model.pt       TorchScript, traced

The number of samples in a batch is free, all else as in the example. Every file is run before it
gets its name, on as many samples as the example does not have, and must say what the model says.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gossip import checkpoint
from gossip.errors import CheckpointError, ModelError
from gossip.host import LOCAL
from gossip.learner import Learner, TorchLearner
from gossip.vector import Layout
from p2p.files import settle

SAMPLES = 3  # in a batch of the example; 1 would be taken for a constant
TOLERANCE = 1e-3  # of the largest output: other kernels add in another order


def export(learner: Learner, state_dir: Path, file: Path) -> tuple[float, str | None]:
    """Write the last checkpoint's model; how far it is off, and what is said of the checkpoint.

    The first is the largest difference between an output of the program and of the model, as a
    part of the largest output. Raises CheckpointError, ModelError.
    """
    if not isinstance(learner, TorchLearner):
        raise ModelError(
            f"only a TorchLearner holds a module that can be exported, not {type(learner).__name__}"
        )
    warning = _load(learner, state_dir)
    inputs = _inputs(learner)
    model = learner.model.eval()
    fresh = file.with_name(f"{file.stem}.new{file.suffix}")
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of PyTorch about itself
            run = _written(model, inputs[:SAMPLES], fresh)
            off = max(_off(run(part), model(part)) for part in (inputs, inputs[:1]))
        if not off <= TOLERANCE:
            raise ModelError(f"as {file.suffix} the model is off by {off:.2g}; it is not written")
        settle(fresh, file)
    except OSError as error:
        raise ModelError(f"cannot write {file}: {error.strerror}; give another FILE") from None
    finally:
        fresh.unlink(missing_ok=True)
    return off, warning


def _written(model: nn.Module, inputs: Tensor, file: Path) -> Run:
    try:
        return WRITERS[file.suffix](model, inputs, file)
    except (OSError, ModelError):
        raise
    except (
        Exception
    ) as error:  # exporters raise whatever a model that they cannot follow makes them
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise ModelError(f"PyTorch cannot export this model as {file.suffix}: {reason}") from None


def _load(learner: TorchLearner, state_dir: Path) -> str | None:
    path = state_dir / checkpoint.NAME
    saved = checkpoint.load(path)
    if saved is None:
        raise CheckpointError(f"there is no {path}; is {state_dir} the --state-dir of a node?")
    if saved.metadata["layout"] != learner.layout.hash.hex():
        there = Layout.decode(str(saved.metadata.get("tensors", "")).encode())
        raise ModelError(
            f"the target makes another model than {path} holds: {learner.layout.difference(there)}"
        )
    learner.load(saved.tensors["x"])
    own = f"{LOCAL}model."
    parts = {name: tensor for name, tensor in saved.tensors.items() if name.startswith(own)}
    try:
        learner.restore({name.removeprefix(LOCAL): tensor for name, tensor in parts.items()})
    except ValueError as error:
        raise ModelError(f"what {path} keeps of this node's own does not fit: {error}") from None
    return saved.warning


def _inputs(learner: TorchLearner) -> Tensor:
    """One sample more than the example has."""
    batches = [learner.test] if learner.test else islice(learner.batches, SAMPLES + 1)
    inputs = torch.cat([batch[0] for batch in batches])[: SAMPLES + 1]
    if len(inputs) <= SAMPLES:
        raise ModelError(f"the target has {len(inputs)} samples to try; give it {SAMPLES + 1}")
    return inputs


def _off(said: Tensor, expected: Tensor) -> float:
    if said.shape != expected.shape:
        return float("inf")
    return float((said - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


Run = Callable[[Tensor], Tensor]


def _onnx(model: nn.Module, inputs: Tensor, file: Path) -> Run:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(name) is None:
            raise ModelError(f"{name} is not installed: pip install 'gossip-learning[onnx]'")
    from onnxruntime import InferenceSession

    with contextlib.redirect_stdout(io.StringIO()):  # it tells of its progress there
        torch.onnx.export(
            model,
            (inputs,),
            file,
            input_names=["inputs"],
            output_names=["outputs"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
    session = InferenceSession(str(file))
    return lambda part: torch.from_numpy(session.run(None, {"inputs": part.numpy()})[0])


def _exported(model: nn.Module, inputs: Tensor, file: Path) -> Run:
    shapes = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(model, (inputs,), dynamic_shapes=shapes), file)
    program: Any = torch.export.load(file).module()
    return program  # type: ignore[no-any-return]


def _traced(model: nn.Module, inputs: Tensor, file: Path) -> Run:
    torch.jit.trace(model, inputs).save(str(file))  # type: ignore[no-untyped-call]
    return torch.jit.load(str(file))  # type: ignore[no-any-return, no-untyped-call]


WRITERS: dict[str, Callable[[nn.Module, Tensor, Path], Run]] = {
    ".onnx": _onnx,
    ".pt2": _exported,
    ".pt": _traced,
}
