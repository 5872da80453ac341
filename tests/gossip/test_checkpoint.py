"""A checkpoint survives what a power cut, a full disk or a bad block does to files."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gossip import checkpoint
from gossip.errors import CheckpointError
from tests.power import Disk

OLD = ({"x": torch.arange(5.0), "r": torch.arange(3, dtype=torch.uint8)}, {"samples": 1})
NEW = ({"x": torch.arange(6.0)}, {"samples": 2})

names = st.text(st.characters(codec="utf-8"), max_size=20).filter(lambda it: it != "__metadata__")
shapes = st.lists(st.integers(0, 3), max_size=3)
dtypes = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.uint8, torch.int64])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint.safetensors"


def same(found: checkpoint.Checkpoint, expected: tuple[dict[str, Tensor], Any]) -> bool:
    tensors, metadata = expected
    return (
        found.metadata == metadata
        and found.tensors.keys() == tensors.keys()
        and all(
            found.tensors[name].dtype == tensor.dtype and torch.equal(found.tensors[name], tensor)
            for name, tensor in tensors.items()
        )
    )


def loaded(path: Path) -> checkpoint.Checkpoint:
    found = checkpoint.load(path)
    assert found is not None
    return found


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(names, st.tuples(shapes, dtypes), max_size=4),
    st.dictionaries(st.text(), values, max_size=4),
)
def test_what_is_saved_is_loaded(
    specified: dict[str, tuple[list[int], torch.dtype]], metadata: dict[str, object]
) -> None:
    tensors = {
        name: torch.randint(0, 100, shape).to(dtype) for name, (shape, dtype) in specified.items()
    }
    with TemporaryDirectory() as directory:
        checkpoint.save(Path(directory) / "c", tensors, metadata)
        found = loaded(Path(directory) / "c")
        assert same(found, (tensors, metadata))
        assert found.warning is None


def test_nan_and_the_sign_of_zero_are_kept(path: Path) -> None:
    odd = torch.tensor([float("nan"), -0.0, float("inf"), 1e-45])
    checkpoint.save(path, {"x": odd}, {})
    assert loaded(path).tensors["x"].numpy().tobytes() == odd.numpy().tobytes()


def test_strided_tensors_are_saved_as_what_they_show(path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    tensors = {"column": whole[:, 1], "transposed": whole.T}
    checkpoint.save(path, tensors, {})
    assert same(loaded(path), (tensors, {}))


def test_what_is_loaded_does_not_change_with_the_file(path: Path) -> None:
    checkpoint.save(path, *OLD)
    found = loaded(path)
    path.write_bytes(bytes(path.stat().st_size))
    assert same(found, OLD)


def test_no_file_is_no_checkpoint(path: Path) -> None:
    assert checkpoint.load(path) is None


def test_the_newest_is_loaded_and_the_one_before_is_kept(path: Path) -> None:
    for samples in range(4):
        checkpoint.save(path, {}, {"samples": samples})
    assert loaded(path).metadata == {"samples": 3}
    path.unlink()
    assert loaded(path).metadata == {"samples": 2}
    assert len(list(path.parent.iterdir())) == 1


def test_a_missing_newest_is_replaced_by_the_previous_with_a_warning(path: Path) -> None:
    checkpoint.save(path, *OLD)
    checkpoint.save(path, *NEW)
    path.unlink()
    found = loaded(path)
    assert same(found, OLD)
    assert found.path == path.with_name(path.name + ".previous")
    assert found.warning is not None
    assert f"{path} is missing" in found.warning


def test_files_are_private_whatever_was_there_before(path: Path) -> None:
    stale = path.with_name(path.name + ".new")
    stale.write_bytes(b"left behind")
    stale.chmod(0o666)
    checkpoint.save(path, *OLD)
    checkpoint.save(path, *NEW)
    assert same(loaded(path), NEW)
    files = list(path.parent.iterdir())
    assert len(files) == 2
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_a_missing_directory_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        checkpoint.save(tmp_path / "missing" / "c", *OLD)


def test_metadata_that_json_cannot_hold_is_refused_and_changes_nothing(path: Path) -> None:
    checkpoint.save(path, *OLD)
    with pytest.raises(TypeError):
        checkpoint.save(path, {}, {"it": object()})
    assert same(loaded(path), OLD)


# damage ------------------------------------------------------------------------------------------


def test_every_flipped_bit_is_noticed(path: Path) -> None:
    checkpoint.save(path, *OLD)
    checkpoint.save(path, *NEW)
    good = path.read_bytes()
    for position in range(len(good)):
        damaged = bytearray(good)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        found = loaded(path)
        assert same(found, OLD)
        assert found.warning is not None
        assert str(path) in found.warning


def test_a_file_cut_anywhere_is_noticed(path: Path) -> None:
    checkpoint.save(path, *OLD)
    checkpoint.save(path, *NEW)
    good = path.read_bytes()
    for length in range(len(good)):
        path.write_bytes(good[:length])
        assert same(loaded(path), OLD)
    path.write_bytes(good + b"\0")
    assert same(loaded(path), OLD)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_in_a_file_are_mistaken_for_a_checkpoint(content: bytes) -> None:
    with TemporaryDirectory() as directory:
        file = Path(directory) / "c"
        file.write_bytes(content)
        with pytest.raises(CheckpointError):
            checkpoint.load(file)


def test_a_safetensors_file_of_somebody_else_is_no_checkpoint(path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(2)}, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        checkpoint.load(path)


def test_a_directory_in_the_place_of_the_file_is_told(path: Path) -> None:
    path.mkdir()
    with pytest.raises(CheckpointError, match=path.name):
        checkpoint.load(path)


def test_damage_to_both_files_is_told_with_both_names_and_the_remedy(path: Path) -> None:
    checkpoint.save(path, *OLD)
    checkpoint.save(path, *NEW)
    previous = path.with_name(path.name + ".previous")
    path.write_bytes(b"")
    previous.write_bytes(previous.read_bytes()[:-1])
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(path)
    assert f"{path} cannot be used" in str(caught.value)
    assert f"{previous} cannot be used" in str(caught.value)
    assert "Move them away to start afresh" in str(caught.value)


def test_damage_to_the_previous_one_does_not_matter(path: Path) -> None:
    checkpoint.save(path, *OLD)
    checkpoint.save(path, *NEW)
    path.with_name(path.name + ".previous").write_bytes(b"")
    assert loaded(path).warning is None


# power cuts --------------------------------------------------------------------------------------


def save_until_cut(path: Path, calls: int) -> bool:
    """Save NEW, with the power cut after so many calls; True if it got to the end."""
    return Disk(path.parent).until_cut(calls, lambda: checkpoint.save(path, *NEW))


def test_a_power_cut_at_any_step_leaves_the_old_or_the_new(path: Path) -> None:
    calls, seen = 0, set()
    checkpoint.save(path, *OLD)
    while not save_until_cut(path, calls):
        seen.add(loaded(path).metadata["samples"])
        checkpoint.save(path, *OLD)
        assert same(loaded(path), OLD)
        calls += 1
    assert calls >= 4
    assert seen == {1, 2}


def test_a_power_cut_in_the_first_save_leaves_nothing_or_the_new(path: Path) -> None:
    calls = 0
    while not save_until_cut(path, calls):
        found = checkpoint.load(path)
        assert found is None or same(found, NEW)
        for file in path.parent.iterdir():
            file.unlink()
        calls += 1
    assert calls >= 3


def test_a_power_cut_while_replacing_a_damaged_file_leaves_a_good_one(path: Path) -> None:
    calls, done = 0, False
    while not done:
        checkpoint.save(path, *OLD)
        checkpoint.save(path, *OLD)
        path.write_bytes(b"rotten")
        done = save_until_cut(path, calls)
        assert loaded(path).metadata["samples"] in (1, 2)
        calls += 1


def test_no_cut_loses_what_the_cut_before_it_left(path: Path) -> None:
    disk = Disk(path.parent)

    def saved_until_cut(calls: int, samples: int) -> bool:
        return disk.until_cut(calls, lambda: checkpoint.save(path, {}, {"samples": samples}))

    first, through = 0, False
    while not through:
        second, done = 0, False
        while not done:
            for file in path.parent.iterdir():
                file.unlink()
            checkpoint.save(path, {}, {"samples": 1})
            checkpoint.save(path, {}, {"samples": 2})
            through = saved_until_cut(first, 3)
            before = loaded(path).metadata["samples"]
            done = saved_until_cut(second, 4)
            assert loaded(path).metadata["samples"] >= before, (first, second)
            second += 1
        first += 1
    assert first >= 4


def test_a_half_written_new_file_is_passed_over(path: Path) -> None:
    checkpoint.save(path, *OLD)
    path.with_name(path.name + ".new").write_bytes(path.read_bytes()[:50])
    assert loaded(path).warning is None
    path.rename(path.with_name(path.name + ".previous"))
    assert same(loaded(path), OLD)


def test_a_failed_write_leaves_no_half_file_behind(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(path, *OLD)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(path, *NEW)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert same(loaded(path), OLD)
