from random import Random

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from gossip.codec import CodecConfig, Patch, decode, encode
from gossip.errors import CodecError

configs = st.builds(
    CodecConfig,
    density=st.sampled_from([0.001, 0.01, 0.1, 0.3, 0.99, 1.0]),
    bits=st.integers(1, 8),
)
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
vectors = arrays.arrays(np.float32, st.integers(1, 300), elements=finite).map(torch.from_numpy)


def same(one: Patch, other: Patch) -> bool:
    if (one.indices is None) != (other.indices is None) or one.size != other.size:
        return False
    both = one.indices is not None and other.indices is not None
    if both and not torch.equal(one.indices, other.indices):
        return False
    # as bits: 0 and -0 differ, and so would two machines that continue from them
    return torch.equal(one.values.view(torch.int32), other.values.view(torch.int32))


def normal(size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


@given(vectors, configs)
@example(torch.tensor([0.0]), CodecConfig())
@example(torch.tensor([1e-45]), CodecConfig(bits=8))
@example(torch.tensor([3.4e38, -3.4e38]), CodecConfig(density=1.0))
@example(torch.zeros(300), CodecConfig(density=1.0, bits=1))
@example(torch.full((300,), -2.5), CodecConfig())
def test_decode_gives_what_encode_says_it_gives(vector: Tensor, config: CodecConfig) -> None:
    data, patch = encode(vector, config)
    assert same(patch, decode(data, len(vector)))


@pytest.mark.parametrize("size", [1, 2, 1000, 1 << 16, (1 << 16) + 1, 500_000])
@pytest.mark.parametrize("density", [0.0001, 0.03, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("kind", ["normal", "heavy", "sparse", "constant", "zero", "ties"])
def test_any_size_density_and_distribution_makes_the_round_trip(
    size: int, density: float, kind: str
) -> None:
    vector = {
        "normal": normal(size),
        "heavy": normal(size) ** 9,
        "sparse": normal(size) * (normal(size, 1) > 2.5),
        "constant": torch.full((size,), 0.1),
        "zero": torch.zeros(size),
        "ties": normal(size).sign(),
    }[kind]
    data, patch = encode(vector, CodecConfig(density=density))
    assert same(patch, decode(data, size))
    kept = len(patch.values)
    assert kept <= 1.1 * max(1, density * size) + 8
    assert float((vector - patch.dense()).norm()) <= float(vector.norm()) * (1 + 1e-6)


@given(vectors, configs)
def test_what_is_left_over_is_no_larger_than_the_vector(
    vector: Tensor, config: CodecConfig
) -> None:
    vector = vector.double()
    _, patch = encode(vector, config)
    rest = vector - patch.dense()
    # bfloat16 keeps 8 bits and nothing below 2^-133
    assert float(rest.norm()) <= float(vector.norm()) * 1.004 + 1e-38


@pytest.mark.parametrize(("bits", "most"), [(1, 0.79), (2, 0.77), (3, 0.76), (4, 0.76), (8, 0.76)])
def test_error_stays_within_its_bound_on_normal_vectors(bits: int, most: float) -> None:
    vector = normal(100_000)
    _, patch = encode(vector, CodecConfig(bits=bits))
    assert float((vector - patch.dense()).norm() / vector.norm()) < most


def test_what_is_not_sent_is_sent_later() -> None:
    """Error feedback: repeating C on what is left over leaves nothing."""
    rest = normal(2000).double()
    start = float(rest.norm())
    for _ in range(100):
        _, patch = encode(rest, CodecConfig())
        patch.add_to(rest, -1.0)
    assert float(rest.norm()) < 1e-4 * start


def test_a_dense_snapshot_of_8_bits_is_within_one_per_cent() -> None:
    vector = normal(10_000)
    _, patch = encode(vector, CodecConfig(density=1.0, bits=8))
    assert float((vector - patch.dense()).norm() / vector.norm()) < 0.01


def test_small_messages_stay_small() -> None:
    """The entropy of 200 indices among 2,000 is 117 bytes; of the codes, about 60."""
    sizes = [len(encode(normal(2000, seed), CodecConfig())[0]) for seed in range(20)]
    assert max(sizes) < 205


def test_the_gaps_of_large_messages_are_near_their_entropy() -> None:
    size, density = 1_000_000, 0.1
    sparse = normal(size)
    one_value = torch.where(sparse.abs() >= 1.6449, 1.0, 0.0)
    data, patch = encode(one_value, CodecConfig(density=0.2, bits=1))
    share = len(patch.values) / size
    assert abs(share - density) < 0.01
    entropy = -size * (share * np.log2(share) + (1 - share) * np.log2(1 - share)) / 8
    signs = 0.002 * size * density  # all alike: they cost nearly nothing
    assert len(data) < 1.03 * entropy + signs


def test_a_vector_of_zeros_costs_a_few_bytes() -> None:
    data, patch = encode(torch.zeros(10**6), CodecConfig())
    assert len(data) < 32
    assert len(patch.values) == 0


@given(vectors, configs, st.sampled_from([0.5, -0.5, 1.0]))
def test_adding_a_patch_is_adding_what_it_stands_for(
    vector: Tensor, config: CodecConfig, weight: float
) -> None:
    _, patch = encode(vector, config)
    for dtype in (torch.float32, torch.float64):
        start = normal(len(vector)).to(dtype)
        changed = start.clone()
        patch.add_to(changed, weight)
        assert torch.equal(changed, start + weight * patch.dense().to(dtype))


@given(st.binary(max_size=400), st.integers(1, 500))
def test_no_bytes_raise_anything_but_a_codec_error(data: bytes, size: int) -> None:
    try:
        patch = decode(data, size)
    except CodecError:
        return
    well_formed(patch, size)


def well_formed(patch: Patch, size: int) -> None:
    assert bool(torch.isfinite(patch.values).all())
    if patch.indices is None:
        assert len(patch.values) == size
    else:
        assert len(patch.values) == len(patch.indices) <= size
        if len(patch.indices):
            assert int(patch.indices[0]) >= 0
            assert int(patch.indices[-1]) < size
            assert bool((patch.indices.diff() > 0).all())


@pytest.mark.parametrize("size", [50, 3000])
@pytest.mark.parametrize("density", [0.05, 0.5, 1.0])
def test_no_damage_raises_anything_but_a_codec_error(size: int, density: float) -> None:
    data, _ = encode(normal(size), CodecConfig(density=density))
    rng = Random(size)
    refused = 0
    for _ in range(500):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            well_formed(decode(bytes(damaged[: rng.randint(1, 2 * len(damaged))]), size), size)
        except CodecError:
            refused += 1
    assert refused > 250


def test_every_truncation_and_every_addition_is_refused() -> None:
    data, _ = encode(normal(300), CodecConfig())
    for size in range(len(data)):
        with pytest.raises(CodecError):
            decode(data[:size], 300)
    with pytest.raises(CodecError, match="left over"):
        decode(data + b"\0", 300)


def test_a_message_for_a_larger_vector_is_refused() -> None:
    data, _ = encode(normal(3000), CodecConfig())
    with pytest.raises(CodecError):
        decode(data, 300)


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    import zstandard

    from gossip.integers import BYTES, varint

    bomb = zstandard.ZstdCompressor().compress(bytes(10**8))
    data = b"".join((b"\x00", varint(10), bytes((BYTES << 5,)), varint(len(bomb)), bomb))
    with pytest.raises(CodecError, match="claimed"):
        decode(data, 1000)


def test_infinity_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="infinity"):
        encode(torch.tensor([1.0, float("inf")]), CodecConfig(density=1.0))


@pytest.mark.parametrize("density", [0.0, -0.1, 1.1, float("nan")])
def test_a_density_that_cannot_be_is_refused(density: float) -> None:
    with pytest.raises(ValueError, match="density"):
        CodecConfig(density=density)


@pytest.mark.parametrize("bits", [0, 9])
def test_bits_that_cannot_be_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="bits"):
        CodecConfig(bits=bits)


def test_the_same_vector_gives_the_same_bytes() -> None:
    vector = normal(300_000)
    assert encode(vector, CodecConfig())[0] == encode(vector.clone(), CodecConfig())[0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("share", [0.001, 0.5])
def test_nan_is_refused_wherever_it_is(bad: float, share: float) -> None:
    for size in (1000, 300_000):
        vector = normal(size)
        vector[: round(share * size)] = bad
        for density in (0.1, 1.0):
            with pytest.raises(ValueError, match="NaN or infinity"):
                encode(vector, CodecConfig(density=density))


scaled = st.floats(-1, 1, width=32).flatmap(
    lambda x: st.integers(-25, 25).map(lambda e: x * 10.0**e if abs(x) > 1e-3 else 0.0)
)


@given(st.lists(scaled, min_size=1, max_size=60).filter(any), configs)
def test_every_message_makes_what_is_left_shorter(
    numbers: list[float], config: CodecConfig
) -> None:
    """(sum |v|)^2 >= sum v^2, so a mean takes away 1 / n of the length squared at least."""
    vector = torch.tensor(numbers)
    _, patch = encode(vector, config)
    before, rest = vector.double(), vector.double() - patch.dense().double()
    assert float(rest.square().sum()) <= float(before.square().sum()) * (1 - 0.99 / len(numbers))


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [4095, 4096, 4097, 70_001])
def test_many_codes_make_the_round_trip_as_few_do(size: int, bits: int) -> None:
    data, patch = encode(normal(size), CodecConfig(density=1.0, bits=bits))
    assert same(patch, decode(data, size))
    for cut in (1, 2, len(data) // 2):
        with pytest.raises(CodecError):
            decode(data[:-cut], size)


def test_the_codes_of_large_messages_are_near_their_entropy() -> None:
    data, patch = encode(normal(200_000), CodecConfig(density=1.0, bits=3))
    _, counts = patch.values.unique(return_counts=True)
    share = counts.double() / counts.sum()
    entropy = float(-(share * share.log2()).sum()) * 200_000 / 8
    assert len(data) < 1.03 * entropy


def test_small_layers_survive_beside_large_ones() -> None:
    """As in a model with BatchNorm, whose variances may be a thousand times the weights."""
    weights, variances = 0.03 * normal(20_000), torch.linspace(1, 30, 64)
    vector = torch.cat((weights, variances))
    _, patch = encode(vector, CodecConfig(density=1.0, bits=8))
    rest = vector - patch.dense()
    assert float(rest[:20_000].norm() / weights.norm()) < 0.15
    assert float(rest[20_000:].norm() / variances.norm()) < 0.01


def test_the_number_of_threads_changes_nothing() -> None:
    vector, before = normal(3_000_000), torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            data, patch = encode(vector, CodecConfig())
            assert same(patch, decode(data, len(vector)))
            added = vector.clone()
            patch.add_to(added, 0.5)
            results.append((data, added))
    finally:
        torch.set_num_threads(before)
    assert results[0][0] == results[1][0] == results[2][0]
    assert torch.equal(results[0][1], results[1][1])
    assert torch.equal(results[0][1], results[2][1])


@pytest.mark.parametrize("density", [0.001, 0.01, 0.1])
def test_a_sampled_threshold_keeps_about_as_many_as_asked_for(density: float) -> None:
    _, patch = encode(normal(3_000_000) ** 3, CodecConfig(density=density))
    assert 0.9 < len(patch.values) / (density * 3_000_000) <= 1.1


def test_among_equals_the_first_are_kept_and_the_larger_ones_always() -> None:
    vector = torch.ones(1000)
    vector[900:905] = -2.0
    _, patch = encode(vector, CodecConfig(density=0.01))
    assert patch.indices is not None
    assert patch.indices.tolist() == [0, 1, 2, 3, 4, 900, 901, 902, 903, 904]
