"""Both ways to find the largest coordinates find the same; and a difference is a subtraction."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from gossip.codec import CodecConfig, encode
from gossip.largest import Difference

DENSITIES = [0.001, 0.1, 0.5, 0.99]
finite = st.floats(width=32, min_value=-(2.0**99), max_value=2.0**99)
pairs = st.integers(1, 200).flatmap(
    lambda size: st.tuples(
        *(arrays.arrays(np.float32, size, elements=finite).map(torch.from_numpy),) * 2
    )
)


def normal(size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def agree(vector: Tensor, reference: Tensor | None, density: float) -> None:
    here = replace(Difference.of(vector, reference), host=True).largest(density)
    away = replace(Difference.of(vector, reference), host=False).largest(density)
    assert here[0].tobytes() == away[0].tobytes()
    assert here[1].tobytes() == away[1].tobytes()
    assert here[2] == away[2]


@given(pairs, st.sampled_from(DENSITIES), st.booleans())
def test_the_way_of_accelerators_finds_the_same(
    pair: tuple[Tensor, Tensor], density: float, referred: bool
) -> None:
    agree(pair[0], pair[1] if referred else None, density)


@pytest.mark.parametrize("size", [1, 2, 3, 131_071, 131_072, 131_073, 500_009])
@pytest.mark.parametrize("kind", ["normal", "sparse", "constant", "zero"])
def test_the_way_of_accelerators_finds_the_same_in_large_vectors(size: int, kind: str) -> None:
    vector = {
        "normal": normal(size),
        "sparse": normal(size) * (normal(size, 1) > 2.5),
        "constant": torch.full((size,), 0.1),
        "zero": torch.zeros(size),
    }[kind]
    for density in (0.003, 0.1):
        agree(vector, None, density)
        agree(vector, 0.1 * normal(size, 2), density)


@given(pairs, st.sampled_from([*DENSITIES, 1.0]), st.integers(1, 8))
def test_the_difference_is_compressed_as_if_it_were_a_vector(
    pair: tuple[Tensor, Tensor], density: float, bits: int
) -> None:
    config = CodecConfig(density=density, bits=bits)
    vector, reference = pair
    assert encode(vector, config, reference)[0] == encode(vector - reference, config)[0]


def test_a_difference_of_double_precision_is_rounded_after_it_was_taken() -> None:
    vector, reference = normal(1000).double(), normal(1000).double() + 1e-9
    config = CodecConfig(density=0.5)
    assert encode(vector, config, reference)[0] == encode((vector - reference).float(), config)[0]


def test_nan_is_refused_on_an_accelerator_too() -> None:
    vector = normal(300_000)
    vector[7] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinity"):
        replace(Difference.of(vector), host=False).largest(0.1)


def test_vectors_of_two_sizes_have_no_difference() -> None:
    with pytest.raises(ValueError, match="no vector"):
        encode(normal(3), CodecConfig(), normal(2))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no accelerator here")
@pytest.mark.parametrize("density", [*DENSITIES, 1.0])
def test_an_accelerator_makes_the_same_bytes(density: float) -> None:
    config = CodecConfig(density=density)
    for size in (1, 1000, 500_009):
        vector, reference = normal(size), 0.1 * normal(size, 1)
        data, patch = encode(vector.cuda(), config, reference.cuda())
        assert data == encode(vector, config, reference)[0]
        moved, expected = vector.cuda(), vector.clone()
        patch.add_to(moved, 0.5)
        patch.add_to(expected, 0.5)
        assert torch.equal(moved.cpu(), expected)
