"""`gossip.join`: a training loop of one's own, with the network beside it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import gossip
from gossip.agent import AgentConfig
from gossip.config import Config
from gossip.errors import ConfigError, LayoutError, NotFinite
from gossip.member import Member
from p2p import P2PError

PATIENCE = 30.0  # seconds; only a test that fails waits so long
# Nobody takes over anybody's model, so that exchanges are all that moves it.
CONFIG = Config(agent=AgentConfig(adopt_ratio=inf))


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2))


def constant(value: float) -> nn.Module:
    layer = nn.Linear(8, 8)
    for parameter in layer.parameters():
        nn.init.constant_(parameter, value)
    return layer


def values(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def state(module: nn.Module) -> dict[str, bytes]:
    state = module.state_dict()
    return {name: value.view(torch.uint8).numpy().tobytes() for name, value in state.items()}


def training(module: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 50) -> Iterator[int]:
    """A loop of the user's; yields after each step."""
    torch.manual_seed(1)
    for _ in range(steps):
        inputs = torch.randn(16, 8).to(next(module.parameters()).dtype)
        loss = nn.functional.cross_entropy(module(inputs), (inputs[:, 0] > 0).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield len(inputs)


def sgd(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)


def eventually(what: str, check: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not check():
        assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}"
        time.sleep(0.005)


def network_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "gossip"]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert not network_threads()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("corrected", [False, True])
def test_alone_training_is_bit_for_bit_what_it_is_without_us(
    corrected: bool, dtype: torch.dtype
) -> None:
    plain = model().to(dtype)
    for _ in training(plain, sgd(plain)):
        pass
    ours = model().to(dtype)
    optimizer = sgd(ours)
    with gossip.join(
        ours, optimizer=optimizer if corrected else None, sync_every=3, peers=["127.0.0.1:1"]
    ) as peer:
        for samples in training(ours, optimizer):
            peer.step(samples)
        assert peer.status()["peers"] == []
    assert state(ours) == state(plain)


def test_two_members_come_together_in_their_mean() -> None:
    a_model, b_model = constant(1.0), constant(3.0)
    with (
        gossip.join(a_model, sync_every=1, config=CONFIG) as a,
        gossip.join(b_model, [a.address], sync_every=1, config=CONFIG) as b,
    ):

        def close() -> bool:
            for peer in (a, b):
                peer.step(0)
            return float((values(a_model) - values(b_model)).abs().max()) < 1e-2

        eventually("one model", close)
        assert torch.allclose(values(a_model), torch.full((72,), 2.0), atol=5e-2)
        (known,) = a.status()["peers"]  # type: ignore[misc, attr-defined]
        assert known["id"] == b.id
        assert known["address"] == b.address
        assert known["exchanges"] > 0


def public(member: Member) -> Tensor:
    """A copy of `x`, made in the network's thread: elsewhere it is seen in the middle of a sync."""
    return member._network.call(lambda: member._host.agent.x.clone()).result()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision_members_agree_far_below_what_their_models_can_tell_apart(
    dtype: torch.dtype,
) -> None:
    models = [constant(1.0).to(dtype), constant(1.0 + 1 / 64).to(dtype)]
    with (
        gossip.join(models[0], sync_every=1, config=CONFIG) as a,
        gossip.join(models[1], [a.address], sync_every=1, config=CONFIG) as b,
    ):

        def close() -> bool:
            for peer in (a, b):
                peer.step(0)
            apart = public(a) - public(b)
            return float(apart.abs().max()) < 1e-6

        eventually("one vector", close)
        mean = torch.full((72,), 1.0 + 1 / 128)
        assert torch.allclose(public(a), mean, rtol=0, atol=1e-5)
    assert all(parameter.dtype == dtype for parameter in models[0].parameters())
    assert torch.equal(values(models[0]), mean.to(dtype))


def test_what_is_kept_stays_ones_own() -> None:
    a_model, b_model = (nn.Sequential(constant(value), constant(value)) for value in (1.0, 3.0))
    with (
        gossip.join(a_model, sync_every=1, config=CONFIG, keep=["1.*"]) as a,
        gossip.join(b_model, [a.address], sync_every=1, config=CONFIG, share=["0.*"]) as b,
    ):

        def close() -> bool:
            for peer in (a, b):
                peer.step(0)
            return float((values(a_model[0]) - values(b_model[0])).abs().max()) < 1e-2

        eventually("one body", close)
    assert torch.equal(values(a_model[1]), values(constant(1.0)))
    assert torch.equal(values(b_model[1]), values(constant(3.0)))


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # inside PyTorch
def test_a_compiled_model_learns_with_a_plain_one() -> None:
    plain, model = constant(1.0), constant(3.0)
    compiled = torch.compile(model, backend="eager")
    optimizer = torch.optim.SGD(compiled.parameters(), lr=0.0)
    with (
        gossip.join(plain, sync_every=1, config=CONFIG) as a,
        gossip.join(compiled, [a.address], sync_every=1, config=CONFIG) as b,  # type: ignore[arg-type]
    ):

        def close() -> bool:
            optimizer.zero_grad()
            compiled(torch.ones(1, 8)).sum().backward()
            optimizer.step()
            for peer in (a, b):
                peer.step(0)
            return float((values(plain) - values(model)).abs().max()) < 1e-2

        eventually("one model", close)


def test_two_loops_in_threads_train_one_model() -> None:
    models = [model(), model()]
    address: list[str] = []
    up = threading.Barrier(2, timeout=PATIENCE)
    failed: list[BaseException] = []

    def loop(index: int) -> None:
        try:
            ours = models[index]
            optimizer = sgd(ours)
            if index:
                up.wait()
            with gossip.join(ours, address, sync_every=2, optimizer=optimizer) as peer:
                if not index:
                    address.append(peer.address)
                    up.wait()
                deadline = time.monotonic() + PATIENCE
                while int(str(peer.status()["exchanges"])) < 20 and time.monotonic() < deadline:
                    for samples in training(ours, optimizer, steps=4):
                        peer.step(samples)
                assert int(str(peer.status()["exchanges"])) >= 20
                up.wait()
        except BaseException as error:
            failed.append(error)
            up.abort()

    threads = [threading.Thread(target=loop, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    for trained in models:
        assert bool(torch.isfinite(values(trained)).all())


def test_a_step_never_waits_for_the_network() -> None:
    ours = constant(0.0)
    with gossip.join(ours, sync_every=1) as peer:
        held = threading.Event()
        stood: list[bool] = []
        # The network's thread stands still.
        peer._network._soon(lambda: stood.append(held.wait(PATIENCE)))
        for _ in range(100):
            peer.step()
        assert not stood
        held.set()
        eventually("samples", lambda: peer.step(0) or peer.status()["samples"] == 100)


def test_the_last_steps_arrive_too_where_the_network_is_late(tmp_path: Path) -> None:
    ours = constant(0.0)
    with gossip.join(ours, sync_every=1, state_dir=tmp_path) as peer:
        held = threading.Event()
        peer._network._soon(held.wait, PATIENCE)
        for _ in range(10):
            ours.bias.data.add_(1.0)
            peer.step()
        held.set()
    again = constant(9.0)
    with gossip.join(again, state_dir=tmp_path) as peer:
        assert peer.status()["samples"] == 10
    assert bool((again.bias == 10.0).all())


def test_nan_is_reported_by_layer_and_a_model_that_was_mended_goes_on() -> None:
    ours = constant(1.0)
    with gossip.join(ours, sync_every=1) as peer:
        ours.bias.data.fill_(torch.nan)

        def step() -> bool:
            peer.step()
            return False

        with pytest.raises(NotFinite, match="'bias' contain NaN or infinity"):
            eventually("NotFinite", step)
        ours.bias.data.fill_(2.0)
        eventually("samples", lambda: peer.step() or int(str(peer.status()["samples"])))
    assert bool((ours.bias == 2.0).all())


def test_nan_at_the_end_is_reported_too() -> None:
    ours = constant(1.0)
    with pytest.raises(NotFinite, match="'weight'"), gossip.join(ours):
        ours.weight.data.fill_(torch.nan)


def test_an_exception_of_the_loop_comes_through_and_the_thread_ends() -> None:
    def loop() -> None:
        with gossip.join(constant(0.0)) as peer:
            peer.step()
            assert network_threads()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop()
    assert not network_threads()


def test_a_member_goes_on_from_its_state_dir(tmp_path: Path) -> None:
    where = str(tmp_path / "state")
    with gossip.join(constant(1.0), state_dir=where) as peer:
        first = peer.id
        peer.step(5)
    again = constant(9.0)
    with gossip.join(again, state_dir=where) as peer:
        assert peer.id == first
        assert peer.status()["samples"] == 5
        assert torch.equal(values(again), values(constant(1.0)))
        with (
            pytest.raises(P2PError, match="another node runs with"),
            gossip.join(constant(0.0), state_dir=where),
        ):
            pass
        assert not (tmp_path / "state" / "api.json").stat().st_mode & 0o077
    assert not (tmp_path / "state" / "api.json").exists()


def test_what_cannot_be_used_is_refused_at_once() -> None:
    ours = constant(0.0)
    with pytest.raises(ValueError, match="sync_every is at least 1, not 0"):
        gossip.join(ours, sync_every=0)
    with pytest.raises(TypeError, match=r"write \['10\.0\.0\.5:7946'\]"):
        gossip.join(ours, "10.0.0.5:7946")
    with pytest.raises(ConfigError, match="join: 'foo' is not HOST:PORT"):
        gossip.join(ours, ["foo"])
    with pytest.raises(ConfigError, match=r"gossip\.join: .*did you mean listen\?"):
        gossip.join(ours, lissten="127.0.0.1:0")
    with pytest.raises(ConfigError, match="listen"):
        gossip.join(ours, listen=7946)
    with pytest.raises(LayoutError):
        gossip.join(nn.ReLU())
    with (
        pytest.raises(ConfigError, match="nothing is encrypted"),
        gossip.join(ours, listen="10.0.0.1:0"),
    ):
        pass
    with pytest.raises(NotFinite), gossip.join(constant(torch.nan)):
        pass


def test_outside_of_with_there_is_no_network() -> None:
    peer = gossip.join(constant(0.0), sync_every=1)
    with pytest.raises(RuntimeError, match="inside `with"):
        peer.step()
    with peer:
        peer.step()
    with pytest.raises(RuntimeError, match="inside `with"):
        peer.status()
    with pytest.raises(ValueError, match="-1"), gossip.join(constant(0.0)) as other:
        other.step(-1)


def test_settings_replace_the_fields_of_a_config(tmp_path: Path) -> None:
    config = Config(agent=CONFIG.agent, state_dir=tmp_path / "a", evaluate_every=7.0)
    with gossip.join(constant(0.0), config=config, state_dir=tmp_path / "b"):
        assert (tmp_path / "b" / "api.json").exists()
        assert not (tmp_path / "a").exists()
