from pathlib import Path

import pytest

from gossip.errors import ConfigError
from sims.experiment import read
from sims.sockets import side_by_side
from tests.daemons import LINE, ROOT


def test_what_daemons_cannot_do_is_refused_before_any_is_started() -> None:
    changes = {"algorithm": "choco", "topology.kind": "ring", "network.loss": 0.1, "nodes": 100}
    with pytest.raises(ConfigError) as caught:
        side_by_side(read("churn", changes, {}))
    for text in ("our own algorithm", "no ring", "befalls", r"loopback as it is", "at most 64"):
        assert text in str(caught.value)


@pytest.mark.slow
def test_real_daemons_send_as_many_bytes_for_their_exchanges_as_simulated_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "line.py").write_text(LINE)
    changes = {"nodes": 3, "seconds": 10.0, "learner": f"{tmp_path / 'line.py'}:learner"}
    # Halves of about 1 kB of one density, so that learning is nearly all that is sent: how many
    # probes and records there are beside it depends on how busy this machine is.
    settings = {"options.pause": "0.1", "options.width": "4000", "settings.density": "0.1"}
    described = read("steady", changes, settings)
    real, virtual = side_by_side(described)
    assert real.exchanges == virtual.exchanges > 100
    assert virtual.bytes == pytest.approx(real.bytes, rel=0.02)
