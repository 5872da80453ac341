"""`gossip model export` as a program: what it computes is what the model computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import gossip
from gossip import program_file
from gossip.errors import CheckpointError, ModelError
from gossip.learner import TorchLearner
from tests.daemons import here


def learner(width: int = 6) -> TorchLearner:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, width), nn.BatchNorm1d(width), nn.Dropout(0.5), nn.Linear(width, 2)
    )
    inputs = torch.randn(32, 4)
    targets = (inputs[:, 0] > 0).long()
    return TorchLearner(
        model,
        [(inputs, targets)],
        nn.functional.cross_entropy,
        test=(inputs, targets),
        keep=["3.*"],
    )


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Path, nn.Module]:
    """A node's state directory, and the model it was left with."""
    one, home = learner(), tmp_path / "home"
    with gossip.join(
        one.model, optimizer=one.optimizer, keep=["3.*"], sync_every=1, state_dir=home
    ) as peer:
        for _ in range(5):
            peer.step(one.train())
    return home, one.model.eval()


def onnx(file: Path, inputs: Tensor) -> Tensor:
    pytest.importorskip("onnxruntime")
    from onnxruntime import InferenceSession

    said = InferenceSession(str(file)).run(None, {"inputs": inputs.numpy()})
    return torch.from_numpy(said[0])


def exported(file: Path, inputs: Tensor) -> Tensor:
    return torch.export.load(file).module()(inputs)  # type: ignore[no-any-return]


def traced(file: Path, inputs: Tensor) -> Tensor:
    return torch.jit.load(str(file))(inputs)  # type: ignore[no-any-return, no-untyped-call]


@pytest.mark.filterwarnings("ignore")  # of PyTorch about itself
@pytest.mark.parametrize(("suffix", "run"), [(".pt2", exported), (".pt", traced), (".onnx", onnx)])
def test_the_program_says_what_the_model_says_for_any_number_of_samples(
    suffix: str,
    run: Callable[[Path, Tensor], Tensor],
    trained: tuple[Path, nn.Module],
    tmp_path: Path,
) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
        pytest.importorskip("onnxscript", reason="the extra `onnx` is not installed")
    home, model = trained
    file = tmp_path / f"model{suffix}"
    off, warning = program_file.export(learner(), home, file)
    assert off < 1e-5
    assert warning is None
    inputs = torch.randn(17, 4)
    with torch.no_grad():
        assert torch.allclose(run(file, inputs), model(inputs), atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", file.name]


def test_what_cannot_be_exported_is_refused_and_nothing_is_written(
    trained: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    home, _ = trained
    file = tmp_path / "model.pt"
    with pytest.raises(ModelError, match=r"another model .*0\.weight is float32 \[7, 4\] here"):
        program_file.export(learner(7), home, file)
    with pytest.raises(CheckpointError, match="there is no"):
        program_file.export(learner(), tmp_path, file)
    assert not file.exists()


def test_the_command_wants_to_know_what_makes_the_model(
    trained: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    home, _ = trained
    file = tmp_path / "model.pt2"
    asked = here("model", "export", "--state-dir", home, file)
    assert asked.exit_code == 2
    assert "--target" in asked.stderr
    target = f"{__file__}:learner"
    done = here(
        "model", "export", "--state-dir", home, "--target", target, "--option", "width=6", file
    )
    assert done.exit_code == 0, done.stderr
    assert "computes what the model of" in done.stdout
    assert file.exists()
