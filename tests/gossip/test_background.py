"""A network that breaks beside a training loop: the loop goes on, and is told once."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import gossip
from gossip import checkpoint
from gossip.checkpoint import NAME
from gossip.config import Config
from gossip.member import MemberEvent
from tests.gossip.test_member import (
    PATIENCE,
    constant,
    eventually,
    model,
    network_threads,
    sgd,
    state,
    training,
    values,
)

Break = Callable[[gossip.Member], None]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert not network_threads()


def leave_the_interpreter(peer: gossip.Member) -> None:
    peer._network._soon(sys.exit, 3)


def stop_the_loop(peer: gossip.Member) -> None:
    assert peer._network._loop is not None
    peer._network._soon(peer._network._loop.stop)


def lose_the_agent(peer: gossip.Member) -> None:
    """What the network does at a sync raises from now on; its thread lives."""
    del peer._host.agent.samples


def lose_the_metrics(peer: gossip.Member) -> None:
    """Publishing raises from now on, so a sync does; leaving and saving go on."""
    peer._host.metrics = {"nothing": object()}  # type: ignore[dict-item]


@pytest.mark.parametrize("harm", [leave_the_interpreter, stop_the_loop])
def test_a_thread_that_dies_is_reported_once_and_training_is_what_it_is_alone(
    harm: Break, caplog: pytest.LogCaptureFixture
) -> None:
    plain = model()
    for _ in training(plain, sgd(plain), steps=200):
        pass
    ours, events = model(), list[MemberEvent]()
    optimizer = sgd(ours)
    with gossip.join(ours, optimizer=optimizer, sync_every=2, on_event=events.append) as peer:
        for count, samples in enumerate(training(ours, optimizer, steps=200)):
            if count == 20:
                harm(peer)
                eventually("the thread is gone", lambda: not network_threads())
            assert not peer.step(samples)
        status = peer.status()
    assert state(ours) == state(plain)
    (told,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "the network's thread ended: " in told.message
    assert "training goes on alone" in told.message
    (ended,) = [event for event in events if isinstance(event, gossip.NetworkEnded)]
    assert ended.cause in told.message
    assert status["lost"] == ended.cause
    assert status["id"] == peer.id


def test_a_network_that_fails_at_a_sync_is_left_and_never_stops_the_loop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ours = constant(1.0)
    with gossip.join(ours, sync_every=1) as peer:
        lose_the_agent(peer)
        eventually("the loop is told", lambda: peer.step() or "samples" in caplog.text)
        for _ in range(10):
            peer.step()
        eventually("the thread has left", lambda: not network_threads())
    assert caplog.text.count("training goes on alone") == 1
    assert torch.equal(values(ours), values(constant(1.0)))


@pytest.mark.parametrize("harm", [leave_the_interpreter, stop_the_loop, lose_the_agent])
def test_a_network_that_dies_just_before_the_end_does_not_keep_the_loop_from_leaving(
    harm: Break, caplog: pytest.LogCaptureFixture
) -> None:
    with gossip.join(constant(1.0), sync_every=1) as peer:
        held = threading.Event()
        peer._network._soon(held.wait, PATIENCE)
        harm(peer)
        peer.step()  # under way when the thread dies
        held.set()
    assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 1


def headed(value: float) -> nn.Module:
    return nn.Sequential(constant(value), constant(value))


@pytest.mark.parametrize("harm", [leave_the_interpreter, stop_the_loop, lose_the_metrics])
def test_a_network_that_breaks_leaves_a_checkpoint_with_what_training_kept(
    harm: Break, tmp_path: Path
) -> None:
    join = partial(gossip.join, keep=["1.*"], sync_every=1, state_dir=tmp_path)
    with join(headed(1.0)):
        pass
    with join(headed(9.0)) as peer:
        harm(peer)
        eventually("the thread is gone", lambda: peer.step() or not network_threads())
    again = headed(9.0)
    with join(again):
        pass
    assert torch.equal(values(again), values(headed(1.0)))


def test_what_training_last_kept_is_saved_when_the_thread_dies(tmp_path: Path) -> None:
    ours, config = headed(1.0), Config(state_dir=tmp_path, checkpoint_every=0.1)

    def kept() -> float:
        saved = checkpoint.load(tmp_path / NAME)
        return float(saved.tensors["local.model.1.bias"][0]) if saved is not None else 0.0

    with gossip.join(ours, keep=["1.*"], sync_every=1, config=config) as peer:
        ours[1].bias.data.fill_(2.0)  # type: ignore[index, union-attr, operator]
        eventually("a checkpoint", lambda: peer.step() or kept() == 2.0)
        leave_the_interpreter(peer)
        eventually("the thread is gone", lambda: not network_threads())
    assert kept() == 2.0


def test_a_network_that_is_left_in_time_saves_what_training_keeps_by_then(tmp_path: Path) -> None:
    ours = headed(1.0)
    with gossip.join(ours, keep=["1.*"], sync_every=1, state_dir=tmp_path) as peer:
        ours[1].bias.data.fill_(2.0)  # type: ignore[index, union-attr, operator]
        lose_the_metrics(peer)
        eventually("the thread is gone", lambda: peer.step() or not network_threads())
    saved = checkpoint.load(tmp_path / NAME)
    assert saved is not None
    assert bool((saved.tensors["local.model.1.bias"] == 2.0).all())


def test_a_break_that_the_status_noticed_first_is_not_told_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events: list[MemberEvent] = []
    with gossip.join(constant(1.0), sync_every=1, on_event=events.append) as peer:
        lose_the_agent(peer)
        peer.step()  # hands over; what becomes of that is for the next
        assert peer.status()["lost"]
        peer.step()
    assert caplog.text.count("training goes on alone") == 1
    assert len([event for event in events if isinstance(event, gossip.NetworkEnded)]) == 1
