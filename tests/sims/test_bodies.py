import torch

from gossip.body import Bodies
from gossip.codec import CodecConfig
from gossip.vector import layout
from sims import bodies
from sims.bodies import RememberedBodies

LAYOUT = layout(torch.nn.Linear(30, 10))
X = torch.randn(LAYOUT.size, generator=torch.Generator().manual_seed(0))
FEW, ALL = CodecConfig(density=0.1), CodecConfig(density=1.0, bits=8)


def test_what_was_written_is_read_as_it_would_be_decoded() -> None:
    remembered = RememberedBodies()
    body, patch = remembered.write(LAYOUT, 1, X, None, FEW)
    assert (body, patch.values.tolist()) == (
        (plain := Bodies().write(LAYOUT, 1, X, None, FEW))[0],
        plain[1].values.tolist(),
    )
    copy = bytes(bytearray(body))
    assert remembered.read(LAYOUT, 1, copy) is patch
    again = remembered.read(LAYOUT, 1, copy)  # arrived twice
    assert again is not patch
    assert torch.equal(again.dense(), patch.dense())
    assert torch.equal(Bodies().read(LAYOUT, 1, body).dense(), patch.dense())


def test_a_dense_patch_is_decoded_so_that_two_ends_do_not_share_a_reference() -> None:
    remembered = RememberedBodies()
    body, patch = remembered.write(LAYOUT, 0, X, None, ALL)
    found = remembered.read(LAYOUT, 0, body)
    assert torch.equal(found.dense(), patch.dense())
    assert found.values.data_ptr() != patch.values.data_ptr()


def test_what_never_arrives_is_forgotten(monkeypatch) -> None:
    monkeypatch.setattr(bodies, "HELD", 8 * 31 * 3)
    remembered = RememberedBodies()
    written = [remembered.write(LAYOUT, n, X + n, None, FEW) for n in range(1, 6)]
    known = [
        remembered.read(LAYOUT, n, body) is patch for n, (body, patch) in enumerate(written, 1)
    ]
    assert known == [False, False, True, True, True]
