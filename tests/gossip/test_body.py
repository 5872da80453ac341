"""Parameters are compressed against each other, buffers densely and seldom."""

from contextlib import suppress

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gossip.body import BUFFERS_EVERY, Bodies
from gossip.codec import CodecConfig, encode
from gossip.errors import CodecError
from gossip.vector import Layout

CONFIG = CodecConfig()
BODIES = Bodies()


def layout(parameters: int, buffers: int) -> Layout:
    shapes = ((parameters,), (buffers,))
    return Layout(("weight", "mean"), shapes, ("float32", "float32"), buffers=1)


def normal(size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


@given(
    st.integers(1, 200),
    st.integers(0, 40),
    st.integers(0, 2 * BUFFERS_EVERY),
    st.sampled_from([0.01, 0.1, 1.0]),
    st.booleans(),
)
def test_what_is_read_is_what_was_written(
    parameters: int, buffers: int, n: int, density: float, referred: bool
) -> None:
    size = parameters + buffers
    reference = normal(size, 1) if referred else None
    found = layout(parameters, buffers)
    body, patch = BODIES.write(found, n, normal(size), reference, CodecConfig(density=density))
    again = BODIES.read(found, n, body)
    assert again.size == patch.size == size
    assert torch.equal(again.dense(), patch.dense())
    one, other = torch.ones(size), torch.ones(size)
    patch.add_to(one, 0.5)
    again.add_to(other, 0.5)
    assert torch.equal(one, other)
    assert torch.equal(one, 1 + 0.5 * patch.dense())


def test_large_buffers_do_not_crowd_parameters_out() -> None:
    found, vector = layout(1000, 100), torch.cat((0.01 * normal(1000), torch.full((100,), 50.0)))
    for n in range(1, BUFFERS_EVERY):
        _, patch = BODIES.write(found, n, vector, None, CONFIG)
        assert patch.indices is not None
        assert len(patch.indices) == 100
        assert int(patch.indices.max()) < 1000


def test_every_so_many_exchanges_all_buffers_travel_at_8_bits() -> None:
    found, vector = layout(1000, 300), torch.cat((normal(1000), 40 * normal(300).abs()))
    for n in (BUFFERS_EVERY, 5 * BUFFERS_EVERY):
        _, patch = BODIES.write(found, n, vector, None, CONFIG)
        rest = (vector - patch.dense())[1000:]
        assert float(rest.norm() / vector[1000:].norm()) < 0.01
        assert patch.indices is not None
        assert int((patch.indices < 1000).sum()) == 100


def test_without_buffers_a_body_is_the_codecs_message() -> None:
    plain = Layout(("weight",), ((500,),), ("float32",))
    for n in range(BUFFERS_EVERY + 1):
        assert (
            BODIES.write(plain, n, normal(500), None, CONFIG)[0] == encode(normal(500), CONFIG)[0]
        )


@given(st.binary(max_size=300), st.integers(0, BUFFERS_EVERY))
def test_no_bytes_raise_anything_but_a_codec_error(body: bytes, n: int) -> None:
    with suppress(CodecError):
        assert BODIES.read(layout(50, 7), n, body).size == 57


@pytest.mark.parametrize("n", [0, 1])
def test_every_truncation_and_every_addition_is_refused(n: int) -> None:
    found = layout(300, 20)
    body, _ = BODIES.write(found, n, normal(320), None, CONFIG)
    for bad in (*(body[:size] for size in range(len(body))), body + b"\0"):
        with pytest.raises(CodecError):
            BODIES.read(found, n, bad)
