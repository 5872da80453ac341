"""What happens reaches TensorBoard through a callback of a few lines."""

from __future__ import annotations

from pathlib import Path

import pytest

import gossip
from gossip.member import MemberEvent
from tests.gossip.test_member import CONFIG, constant, eventually

pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # theirs

from tensorboard.backend.event_processing.event_accumulator import (  # noqa: E402
    EventAccumulator,
)
from torch.utils.tensorboard import SummaryWriter  # noqa: E402


def test_exchanges_are_a_curve_over_samples(tmp_path: Path) -> None:
    writer = SummaryWriter(str(tmp_path))  # type: ignore[no-untyped-call]

    def on_event(event: MemberEvent) -> None:
        if isinstance(event, gossip.SyncCompleted):
            writer.add_scalar("exchanges", event.exchanges, event.samples)  # type: ignore[no-untyped-call]

    with (
        gossip.join(constant(1.0), sync_every=1, config=CONFIG, on_event=on_event) as a,
        gossip.join(constant(3.0), [a.address], sync_every=1, config=CONFIG) as b,
    ):

        def enough() -> bool:
            a.step(2)
            b.step(2)
            return int(str(a.status()["exchanges"])) >= 5

        eventually("five exchanges", enough)
    writer.close()  # type: ignore[no-untyped-call]
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    curve = read.Scalars("exchanges")
    assert [point.step for point in curve] == sorted(point.step for point in curve)
    assert curve[-1].value >= 5
