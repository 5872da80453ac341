"""Models as files: what is read back, what is refused, and what two of them differ in."""

from __future__ import annotations

import json
from math import inf
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load as deserialize
from safetensors.torch import save as serialize

from gossip import model_file, model_vector
from gossip.errors import ModelError
from gossip.model_file import ModelFile, differences
from gossip.vector import Layout

LAYOUT = Layout(
    ("a", "half", "brain", "double"),
    ((2, 3), (4,), (3,), ()),
    ("float32", "float16", "bfloat16", "float64"),
)


def model(content: bytes, name: str = "it") -> ModelFile:
    return ModelFile(np.frombuffer(content, np.uint8), name)


def written(x: torch.Tensor, layout: Layout = LAYOUT) -> bytes:
    return b"".join(model_vector.write(layout, x, {"samples": "7"}))


def vector() -> torch.Tensor:
    return torch.randn(LAYOUT.size, generator=torch.Generator().manual_seed(1))


def test_what_is_written_is_what_safetensors_reads_in_the_models_own_dtypes() -> None:
    x = vector()
    found = deserialize(written(x.clone()))
    types = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in found.items()}
    assert types == dict(zip(LAYOUT.names, LAYOUT.dtypes, strict=True))
    assert torch.equal(found["a"], x[:6].view(2, 3))
    assert torch.equal(found["half"], x[6:10].half())
    assert torch.equal(found["brain"], x[10:13].bfloat16())


def test_every_dtype_is_read_back_without_pytorch() -> None:
    content = written(vector())
    for name, tensor in deserialize(content).items():
        assert np.array_equal(model(content).values(name), tensor.double().reshape(-1).numpy())


def test_a_file_of_any_order_gives_the_vector_back() -> None:
    ours = written(vector())
    tensors = deserialize(ours)
    theirs = serialize(tensors)  # the widest first
    expected = torch.cat([tensors[name].float().view(-1) for name in LAYOUT.names])
    orders = set()
    for content in (ours, theirs):
        begin = 8 + model_file.length(content[:8])
        header = model_file.decode(content[8:begin])
        orders.add(tuple(part.start for part in map(header.parts.__getitem__, LAYOUT.names)))
        model_vector.check(LAYOUT, header)
        found = model_vector.read(LAYOUT, header, bytearray(content[begin:]))
        assert torch.equal(found, expected)
    assert len(orders) == 2


def test_a_large_tensor_is_written_in_pieces() -> None:
    layout = Layout(("w",), ((300, 1000),), ("float32",))
    x = torch.arange(300_000.0)
    pieces = list(model_vector.write(layout, x.clone(), {}))
    assert len(pieces) > 2
    assert torch.equal(deserialize(b"".join(pieces))["w"].view(-1), x)


def test_another_layout_is_refused_with_the_layer_named() -> None:
    content = serialize({"a": torch.zeros(2, 4), "extra": torch.zeros(1)})
    header = model_file.decode(content[8 : 8 + model_file.length(content[:8])])
    with pytest.raises(ModelError, match=r"a is float32 \[2, 3\] here and float32 \[2, 4\] there"):
        model_vector.check(LAYOUT, header)


# damage -------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=100))
def test_random_bytes_are_no_model(content: bytes) -> None:
    for bytes_ in (content, len(content).to_bytes(8, "little") + content):
        with pytest.raises(ModelError, match=r"it is no model.*gossip model pull"):
            model(bytes_)


def test_a_file_cut_anywhere_is_no_model() -> None:
    content = written(vector())
    for length in range(len(content)):
        with pytest.raises(ModelError):
            model(content[:length])
    with pytest.raises(ModelError, match="longer than its header says"):
        model(content + b"\0")


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}, "I64"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, "not as many bytes"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}, "gaps"),
        ({"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}, "no shape"),
        ({"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}, "no shape"),
        ({"dtype": "F32", "shape": [1] * 99, "data_offsets": [0, 4]}, "no shape"),
        ({"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}, "cannot be read"),
        ({"shape": [1], "data_offsets": [0, 4]}, "cannot be read"),
        (3, "cannot be read"),
    ],
)
def test_a_header_that_lies_is_refused(entry: object, why: str) -> None:
    with pytest.raises(ModelError, match=why):
        model_file.decode(json.dumps({"w": entry}).encode())


@pytest.mark.parametrize("text", [b"[]", b"3", b"null", b"[" * 5000, b'{"__metadata__": 3}'])
def test_a_header_of_another_kind_is_refused(text: bytes) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        model_file.decode(text)


# differences --------------------------------------------------------------------------------------


def test_differences_are_the_largest_and_the_relative_distance_of_each_layer() -> None:
    a = model(serialize({"w": torch.tensor([3.0, 4.0]), "b": torch.zeros(2)}))
    b = model(serialize({"w": torch.tensor([3.0, 3.0]), "b": torch.tensor([0.0, -2.0])}))
    found = {each.layer: each for each in differences(a, b)}
    assert (found["w"].largest, found["w"].relative) == (1.0, 0.2)
    assert (found["b"].largest, found["b"].relative) == (2.0, inf)
    assert all(each.largest == each.relative == 0 for each in differences(a, a))


def test_layers_that_are_not_the_same_do_not_compare() -> None:
    a = model(serialize({"w": torch.zeros(2)}), "A")
    b = model(serialize({"w": torch.zeros(3)}), "B")
    c = model(serialize({"w": torch.zeros(2), "more": torch.zeros(1)}), "C")
    with pytest.raises(ModelError, match=r"'w' is \[2\] in A and \[3\] in B"):
        differences(a, b)
    for one, other in ((a, c), (c, a)):
        with pytest.raises(ModelError, match=r"'more' is in A only|'more' is in C only"):
            differences(one, other)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot read .*nothing: No such file"):
        ModelFile.open(tmp_path / "nothing")
    (tmp_path / "empty").touch()
    with pytest.raises(ModelError, match="empty is no model"):
        ModelFile.open(tmp_path / "empty")
