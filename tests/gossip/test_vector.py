import tracemalloc
from contextlib import suppress

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from gossip.errors import LayoutError
from gossip.vector import (
    Layout,
    Selection,
    add,
    first_not_finite,
    flatten,
    hold,
    layout,
    load,
)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.outer = nn.Linear(3, 3)
        self.outer.weight = self.inner.weight
        self.register_buffer("cache", torch.ones(5), persistent=False)
        self.register_buffer("steps", torch.tensor(7))


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3), nn.Flatten(), nn.Linear(18, 4))


def test_loading_what_was_flattened_changes_nothing_else() -> None:
    model, other = network(), network()
    for parameter in other.parameters():
        parameter.data.zero_()
    model[1].running_mean += 3
    model[1].num_batches_tracked += 5
    load(other, flatten(model))
    for name, tensor in model.state_dict().items():
        if name == "1.num_batches_tracked":
            assert other.state_dict()[name] == 0, "integer buffers stay local"
        else:
            assert torch.equal(other.state_dict()[name], tensor)


def test_a_flattened_model_is_a_copy() -> None:
    model = network()
    vector = flatten(model)
    vector.zero_()
    assert float(flatten(model).abs().sum()) > 0


def test_tied_weights_are_there_once_and_derived_buffers_not_at_all() -> None:
    found = layout(Tied())
    assert found.names == ("inner.weight", "inner.bias", "outer.bias")
    assert found.size == 9 + 3 + 3 == len(flatten(Tied()))


def test_frozen_parameters_are_shared_as_well() -> None:
    model = nn.Linear(2, 2)
    model.weight.requires_grad_(False)
    assert layout(model).size == 6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_survives_the_way_there_and_back(dtype: torch.dtype) -> None:
    model, other = network().to(dtype), network().to(dtype)
    nn.init.zeros_(other[0].weight)
    load(other, flatten(model))
    assert torch.equal(other[0].weight, model[0].weight)
    assert layout(model) != layout(network()), "dtypes are part of the layout"


HALVES = [torch.float16, torch.bfloat16]


@given(st.lists(finite, min_size=3, max_size=3), st.sampled_from(HALVES))
def test_what_a_model_holds_is_what_loading_leaves_of_a_vector(
    numbers: list[float], dtype: torch.dtype
) -> None:
    model, vector = nn.Linear(2, 1, dtype=dtype), torch.tensor(numbers)
    load(model, vector)
    hold(layout(model), vector)
    assert torch.equal(flatten(model), vector)
    assert bool(torch.isfinite(vector).all()), "rounding never makes infinity"


def test_in_float32_a_model_holds_everything() -> None:
    vector = torch.randn(6)
    held = vector.clone()
    hold(layout(nn.Linear(2, 2)), held)
    assert torch.equal(held, vector)


def test_layers_are_held_each_in_their_own_precision() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).bfloat16(), nn.Linear(1, 1).half())
    found = layout(model)
    assert found.half == ((6, 12, torch.bfloat16), (12, 14, torch.float16))
    vector = torch.full((found.size,), 1 + 2**-10)
    hold(found, vector)
    assert vector.tolist() == [1 + 2**-10] * 6 + [1.0] * 6 + [1 + 2**-10] * 2


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_adding_leaves_the_sum_in_full_and_the_model_holds_what_it_can(dtype: torch.dtype) -> None:
    model = nn.Linear(4, 3, dtype=dtype)
    before = flatten(model)
    change = 1e-4 * torch.randn(15)
    total = before + change
    add(model, change)
    assert torch.equal(change, total)
    hold(layout(model), total)
    assert torch.equal(flatten(model), total)


def test_parameters_come_first_and_buffers_last() -> None:
    found = layout(nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)))
    assert found.names == (
        "0.weight",
        "0.bias",
        "1.weight",
        "1.bias",
        "0.running_mean",
        "0.running_var",
    )
    assert found.parameters == 3 + 3 + 6 + 2
    assert found.buffers == 2
    assert found.size == found.parameters + 6


def test_a_variance_never_falls_below_zero() -> None:
    model = nn.BatchNorm1d(2)
    vector = torch.tensor([1.0, 1.0, 0.0, 0.0, -3.0, -3.0, -1e-3, 2.0])
    held = vector.clone()
    hold(layout(model), held)
    assert held.tolist() == [1.0, 1.0, 0.0, 0.0, -3.0, -3.0, 0.0, 2.0]
    add(model, vector - flatten(model))
    assert torch.equal(flatten(model), held)


# what is shared ----------------------------------------------------------------------------------


def test_only_what_matches_is_shared() -> None:
    assert layout(network(), Selection(share=("0.*",))).names == ("0.weight", "0.bias")


def test_what_is_kept_wins_over_what_is_shared() -> None:
    found = layout(network(), Selection(share=("0.*", "3.*"), keep=("*.bias", "1.*")))
    assert found.names == ("0.weight", "3.weight")


@given(st.sets(st.sampled_from(layout(network()).names), max_size=7))
def test_what_is_kept_is_neither_read_nor_written(kept: set[str]) -> None:
    selection = Selection(keep=tuple(sorted(kept)))
    assume(not kept.issuperset(name for name, _ in network().named_parameters()))
    model, other = network(), network()
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.add_(1)
    found = layout(model, selection)
    load(other, flatten(model, selection=selection), selection)
    add(other, torch.ones(found.size), selection)
    mine, theirs = model.state_dict(), other.state_dict()
    for name in layout(model).names:
        assert (name in found.names) == (name not in kept)
        assert torch.equal(theirs[name], mine[name] + 1), "1 more either way: kept, or added to"


def test_tied_weights_are_meant_by_each_of_their_names() -> None:
    assert layout(Tied(), Selection(keep=("outer.*",))).names == ("inner.bias",)
    assert layout(Tied(), Selection(share=("outer.*",))).names == ("inner.weight", "outer.bias")


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (Selection(share=("lora_*",)), r"share: 'lora_\*' matches no name; the nearest are "),
        (Selection(keep=("3.wieght",)), "keep: '3.wieght' matches no name.* 3.weight"),
        (Selection(keep=("weight",)), r"'\*weight\*' would match 0.weight, 1.weight, 3.weight"),
        (Selection(keep=("*",)), "Sequential has no floating parameters to share with .*keep="),
        (Selection(share=("*.running_*",)), "no floating parameters to share with share="),
    ],
)
def test_a_selection_that_makes_no_sense_is_refused(selection: Selection, message: str) -> None:
    with pytest.raises(LayoutError, match=message):
        layout(network(), selection)


def test_a_lone_pattern_is_not_taken_for_a_list_of_letters() -> None:
    with pytest.raises(TypeError, match=r"write \['head\.\*'\]"):
        Selection.of(None, "head.*")


def test_double_precision_is_rounded() -> None:
    model = nn.Linear(1, 1, dtype=torch.float64)
    nn.init.constant_(model.weight, 0.1)
    load(model, flatten(model))
    assert model.weight.item() == torch.tensor(0.1).item()


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # inside PyTorch
def test_wrappers_leave_no_trace_in_names() -> None:
    plain = network()
    assert layout(torch.nn.DataParallel(plain)) == layout(plain)
    assert layout(torch.compile(plain)) == layout(plain)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.ReLU(), "no floating parameters"),
        (nn.BatchNorm1d(3, affine=False), "no floating parameters"),
        (nn.Linear(2, 2, dtype=torch.complex64), "complex"),
        (nn.LazyLinear(3), "run one batch"),
        (nn.Linear(2, 2, device="meta"), "meta"),
    ],
)
def test_a_model_that_cannot_be_a_vector_is_refused(model: nn.Module, reason: str) -> None:
    with pytest.raises(LayoutError, match=reason):
        layout(model)


def test_a_vector_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="coordinates"):
        load(network(), torch.zeros(3))
    with pytest.raises(ValueError, match="coordinates"):
        flatten(network(), torch.zeros(3))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_the_layer_with_nan_or_infinity_is_named(bad: float) -> None:
    model = network()
    assert first_not_finite(layout(model), flatten(model)) is None
    with torch.no_grad():
        model[3].bias[2] = bad
    assert first_not_finite(layout(model), flatten(model)) == "3.bias"


names = st.text(max_size=20)
shapes = st.lists(st.integers(0, 100), max_size=4).map(tuple)
entries = st.lists(
    st.tuples(names, shapes, st.sampled_from(["float32", "bfloat16"])), min_size=1, max_size=8
)
layouts = st.tuples(entries, st.integers(0, 7)).map(
    lambda drawn: Layout(
        *(tuple(column) for column in zip(*drawn[0], strict=True)), drawn[1] % len(drawn[0])
    )
)


@given(layouts)
def test_a_layout_reads_back_as_it_was(found: Layout) -> None:
    again = Layout.decode(found.encode())
    assert again == found
    assert again.hash == found.hash


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_bytes_raise_anything_but_a_layout_error(data: bytes) -> None:
    with suppress(LayoutError):
        Layout.decode(data)


@pytest.mark.parametrize("empty", [b"[],", b"{},", b"[[],[]],"])
def test_a_layout_of_nothing_but_brackets_is_refused_before_it_is_unpacked(empty: bytes) -> None:
    data = b"[" + empty * (2**20 // len(empty) - 2) + b"[]]"
    tracemalloc.start()
    with pytest.raises(LayoutError, match="16384 tensors"):
        Layout.decode(data)
    _, taken = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < len(data)


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000,
        b"[]",
        b"[0]",
        b'[["w",[1],"float32"]]',
        b'[["w",[1],"float32"],1]',
        b'[["w",[1],"float32"],-1]',
        b'[["w",[1],"float32"],false]',
        b'[["w",[-1],"float32"],0]',
        b'[["w",[true],"float32"],0]',
        b'[["w",[2147483648,2],"float32"],0]',
        b'[["w",[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"float32"],0]',
        b" " * (2 << 20),
    ],
)
def test_a_layout_beyond_the_limits_is_refused(data: bytes) -> None:
    with pytest.raises(LayoutError):
        Layout.decode(data)


def test_a_difference_names_the_layers() -> None:
    here = layout(nn.Sequential(nn.Linear(64, 10)))
    there = layout(nn.Sequential(nn.Linear(64, 62), nn.Linear(62, 1)))
    assert here.difference(there) == (
        "0.weight is float32 [10, 64] here and float32 [62, 64] there; "
        "0.bias is float32 [10] here and float32 [62] there; 1.weight exists only there; and 1 more"
    )
    assert here.difference(here) == "nothing"


def test_a_peers_names_cannot_write_on_our_terminal() -> None:
    evil = Layout(("\x1b[2J" + "x" * 500,), ((1,),), ("float32",))
    text = layout(nn.Linear(1, 1)).difference(evil)
    assert "\x1b" not in text
    assert len(text) < 400
