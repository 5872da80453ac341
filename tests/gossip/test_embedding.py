"""`gossip.join`: turned off; what it tells; and what a checkpoint of it keeps."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.optim import SGD, Adam

import gossip
from gossip import checkpoint
from gossip.checkpoint import NAME
from gossip.config import Config
from gossip.member import MemberEvent
from p2p import PeerUp
from tests.gossip.test_member import (
    CONFIG,
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


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert not network_threads()


# off ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["1", "yes"])
def test_off_means_no_thread_no_socket_no_file_and_the_same_training(
    text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GOSSIP_OFF", text)
    plain, ours = model(), model()
    for _ in training(plain, sgd(plain)):
        pass
    optimizer = sgd(ours)
    hooks = len(optimizer._optimizer_step_pre_hooks)
    where = tmp_path / "state"
    with gossip.join(ours, ["127.0.0.1:1"], optimizer=optimizer, state_dir=where) as peer:
        for samples in training(ours, optimizer):
            assert not peer.step(samples)
        assert not network_threads()
        assert peer.status()["peers"] == []
        assert peer.status()["samples"] == 800
        assert (peer.id, peer.address) == ("off", "off")
    assert state(ours) == state(plain)
    assert not where.exists()
    assert len(optimizer._optimizer_step_pre_hooks) == hooks


def test_zero_is_not_off_and_off_still_counts_samples_like_a_member(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GOSSIP_OFF", "0")
    with gossip.join(constant(0.0)) as peer:
        assert peer.id != "off"
    monkeypatch.setenv("GOSSIP_OFF", "1")
    with gossip.join(constant(0.0)) as peer, pytest.raises(ValueError, match="-1"):
        peer.step(-1)


# events ------------------------------------------------------------------------------------------


def test_events_are_told_in_the_thread_that_steps() -> None:
    told: list[MemberEvent] = []
    threads: set[threading.Thread] = set()

    def on_event(event: MemberEvent) -> None:
        told.append(event)
        threads.add(threading.current_thread())

    a_model, b_model = constant(1.0), constant(3.0)
    with (
        gossip.join(a_model, sync_every=1, config=CONFIG, on_event=on_event) as a,
        gossip.join(b_model, [a.address], sync_every=1, config=CONFIG) as b,
    ):

        def merged() -> bool:
            before = values(a_model)
            b.step(3)
            if not a.step(5):
                assert torch.equal(values(a_model), before)
                return False
            assert not torch.equal(values(a_model), before)
            return True

        eventually("a merge", merged)
        synced = [event for event in told if isinstance(event, gossip.SyncCompleted)]
        assert synced[-1].merged
        assert synced[-1].exchanges > 0
        assert synced[-1].neighbours == 1
        assert synced[-1].bytes_sent > 0
        assert synced[-1].samples % 5 == 0
    assert threads == {threading.current_thread()}
    (up,) = [event for event in told if isinstance(event, PeerUp)]
    assert str(up.peer.id) == b.id


def test_what_the_callback_raises_comes_out_of_the_step() -> None:
    def refuse(event: MemberEvent) -> None:
        raise ZeroDivisionError

    def loop() -> None:
        with gossip.join(constant(1.0), sync_every=1, on_event=refuse) as peer:
            eventually("an event", lambda: peer.step() and False)

    with pytest.raises(ZeroDivisionError):
        loop()


def test_a_merge_is_taken_in_even_if_the_callback_raises() -> None:
    class Complaint(Exception):
        pass

    complaints = 0

    def complain(event: MemberEvent) -> None:
        nonlocal complaints
        if isinstance(event, gossip.SyncCompleted) and event.merged:
            complaints += 1
            raise Complaint

    a_model, b_model = constant(1.0), constant(3.0)
    with (
        suppress(Complaint),
        gossip.join(a_model, sync_every=1, config=CONFIG, on_event=complain) as a,
        gossip.join(b_model, [a.address], sync_every=1, config=CONFIG) as b,
    ):

        def close() -> bool:
            b.step(0)
            with suppress(Complaint):
                a.step(0)
            return float((values(a_model) - values(b_model)).abs().max()) < 1e-2

        eventually("one model", close)
        assert torch.allclose(values(a_model), torch.full((72,), 2.0), atol=5e-2)
    assert complaints


# checkpoints -------------------------------------------------------------------------------------


def headed() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 2))


def everything(module: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    kept = [*module.state_dict().values()]
    for parameter in module.parameters():
        values = sorted(optimizer.state[parameter].items())
        kept += [value for _, value in values if isinstance(value, torch.Tensor)]
    return [tensor.clone() for tensor in kept]


@pytest.mark.parametrize("make", [partial(SGD, lr=0.1, momentum=0.9), partial(Adam, lr=0.01)])
def test_training_goes_on_from_a_checkpoint_as_if_nothing_had_happened(
    make: partial[torch.optim.Optimizer], tmp_path: Path
) -> None:
    one = headed()
    optimizer = make(one.parameters())
    with gossip.join(one, optimizer=optimizer, keep=["2.*"], state_dir=tmp_path) as peer:
        for samples in training(one, optimizer):
            peer.step(samples)
    expected = everything(one, optimizer)
    torch.manual_seed(9)
    again = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 2))
    optimizer = make(again.parameters())
    with gossip.join(again, optimizer=optimizer, keep=["2.*"], state_dir=tmp_path):
        found = everything(again, optimizer)
        assert len(found) == len(expected)
        assert all(map(torch.equal, found, expected))


def test_the_drift_correction_goes_on_too(tmp_path: Path) -> None:
    a_model, b_model = model(), model(1)
    a_sgd, b_sgd = sgd(a_model), sgd(b_model)
    with (
        gossip.join(a_model, optimizer=a_sgd, sync_every=1, state_dir=tmp_path / "a") as a,
        gossip.join(b_model, [a.address], optimizer=b_sgd, sync_every=1) as b,
    ):

        def corrected() -> bool:
            for samples in training(a_model, a_sgd, steps=1):
                a.step(samples)
            for samples in training(b_model, b_sgd, steps=1):
                b.step(samples)
            return any(name.startswith("h.") for name in a._training.state())

        eventually("a correction", corrected)
    h = {name: tensor for name, tensor in a._training.state().items() if name.startswith("h.")}
    again = model(2)
    with gossip.join(again, optimizer=sgd(again), state_dir=tmp_path / "a") as peer:
        kept = peer._training.state()
        assert all(torch.equal(kept[name], tensor) for name, tensor in h.items())


def test_who_cannot_enter_leaves_no_thread_no_lock_and_the_checkpoint(tmp_path: Path) -> None:
    join = partial(gossip.join, keep=["2.*"], state_dir=tmp_path)
    one, again = headed(), headed()
    nn.init.zeros_(again[2].weight)  # type: ignore[index, arg-type]
    with join(one):
        pass
    other = headed()
    cannot = join(other)
    other[0].weight = nn.Parameter(torch.zeros(3))  # type: ignore[index]
    with pytest.raises(ValueError, match="coordinates"), cannot:
        pass
    assert not network_threads()
    with join(again):
        assert torch.equal(values(again), values(one))


def test_rank_0_that_cannot_tell_the_others_leaves_no_thread_and_no_lock(tmp_path: Path) -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        one = constant(1.0)
        cannot = gossip.join(one, state_dir=tmp_path, group=dist.group.WORLD)
        one.weight = nn.Parameter(torch.zeros(3))
        with pytest.raises(ValueError, match="coordinates"), cannot:
            pass
    finally:
        dist.destroy_process_group()
    assert not network_threads()
    with gossip.join(constant(1.0), state_dir=tmp_path):
        pass


def test_while_training_runs_a_step_answers_what_the_checkpoint_asks(tmp_path: Path) -> None:
    config = Config(state_dir=tmp_path, checkpoint_every=0.1)
    ours = model()
    optimizer = sgd(ours)

    def kept() -> bool:
        for samples in training(ours, optimizer, steps=1):
            peer.step(samples)
        saved = checkpoint.load(tmp_path / NAME)
        return saved is not None and any("momentum" in name for name in saved.tensors)

    with gossip.join(ours, optimizer=optimizer, config=config) as peer:
        eventually("a checkpoint with momentum", kept)


def test_who_does_not_step_is_not_waited_for_at_the_end(tmp_path: Path) -> None:
    config = Config(state_dir=tmp_path, checkpoint_every=PATIENCE)
    ours = model()
    optimizer = sgd(ours)
    with gossip.join(ours, optimizer=optimizer, config=config) as peer:
        for samples in training(ours, optimizer, steps=3):
            peer.step(samples)
        peer._network.result(peer._network.call(lambda: ask(peer)))
        eventually("it asks", lambda: peer._host.asked)
        begun = time.monotonic()
    assert time.monotonic() - begun < PATIENCE / 3
    saved = checkpoint.load(tmp_path / NAME)
    assert saved is not None
    assert any("momentum" in name for name in saved.tensors)


def ask(peer: gossip.Member) -> None:
    """Have the host ask for what training keeps; nobody answers."""
    peer._pending = asyncio.create_task(peer._host.save())  # type: ignore[attr-defined]


def test_a_state_that_holds_nan_is_not_kept(tmp_path: Path) -> None:
    ours = model()
    optimizer = sgd(ours)
    with gossip.join(ours, optimizer=optimizer, state_dir=tmp_path) as peer:
        for samples in training(ours, optimizer, steps=3):
            peer.step(samples)
        for state in optimizer.state.values():
            state["momentum_buffer"].fill_(torch.nan)
            break
    saved = checkpoint.load(tmp_path / NAME)
    assert saved is not None
    names = [name for name in saved.tensors if "momentum" in name]
    assert names == [f"local.SGD.{index}.momentum_buffer" for index in (1, 2, 3)]


def test_another_optimizer_begins_anew_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours = model()
    optimizer = sgd(ours)
    with gossip.join(ours, optimizer=optimizer, state_dir=tmp_path) as peer:
        for samples in training(ours, optimizer, steps=3):
            peer.step(samples)
    with gossip.join(model(2), state_dir=tmp_path):
        assert "is not of a loop whose optimizer we know" in caplog.text
