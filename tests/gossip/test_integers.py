import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.errors import CodecError
from gossip.integers import LONG, VERY_LONG, Reader, pack, varint

LIMIT = 2**31 - 1
rows = st.one_of(
    st.lists(st.integers(0, 15), max_size=600),
    st.lists(st.integers(0, LIMIT), max_size=600),
    st.lists(st.sampled_from([0, 1, 300, 100_000]), max_size=600),
)


@given(rows)
def test_a_row_reads_back_as_it_was(numbers: list[int]) -> None:
    row = np.array(numbers, np.int32)
    reader = Reader(pack(row))
    assert reader.integers(len(row), LIMIT).tolist() == numbers
    reader.finish()


@pytest.mark.parametrize("count", [1, LONG - 1, LONG, VERY_LONG - 1, VERY_LONG, 200_000])
@pytest.mark.parametrize("mean", [0.1, 1, 9, 300, 100_000])
def test_geometric_numbers_are_near_their_entropy(count: int, mean: float) -> None:
    p = 1 / (1 + mean)
    row = (np.random.default_rng(0).geometric(p, count) - 1).astype(np.int32)
    data = pack(row)
    reader = Reader(data)
    assert reader.integers(count, LIMIT).tolist() == row.tolist()
    # zstandard and unary codes take a bit a number at least
    entropy = count * (-(p * np.log2(p) + (1 - p) * np.log2(1 - p)) / p) / 8
    assert len(data) < (2.3 if mean < 1 else 1.12 if mean == 1 else 1.06) * entropy + 40


@given(st.integers(0, 2**35 - 1))
def test_a_varint_reads_back_as_it_was(number: int) -> None:
    assert Reader(varint(number)).varint() == number


def test_a_varint_without_end_is_refused() -> None:
    with pytest.raises(CodecError, match="does not end"):
        Reader(b"\xff" * 10).varint()


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=400))
def test_a_number_above_the_limit_is_refused(numbers: list[int]) -> None:
    data = pack(np.array(numbers, np.int32))
    limit = max(numbers) // 2
    try:
        read = Reader(data).integers(len(numbers), limit)
    except CodecError:
        return
    # the low bits of a number may still exceed a limit that is not a power of two; the codec
    # checks codes and indices once more
    assert int(read.max()) < 2 * limit + 2
