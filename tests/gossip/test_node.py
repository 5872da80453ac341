"""Nodes in this process, on real sockets and with a training thread each."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from math import inf
from pathlib import Path
from threading import Event
from typing import Any, Literal

import aiohttp
import pytest
import torch
from torch import Tensor, nn

from gossip import cache
from gossip.agent import AgentConfig
from gossip.config import Config
from gossip.errors import CheckpointError, NotFinite
from gossip.exchange import ExchangeCompleted
from gossip.host import Host
from gossip.node import HOPELESS, Node
from gossip.vector import Layout, layout
from p2p import Address, Peer, PeerDown, PeerId, PeerUp

SIZE = 64
LAYOUT = Layout(("w",), ((SIZE,),), ("float32",))
PATIENCE = 30.0  # seconds; only a test that fails waits so long
# Nobody takes over anybody's model, so that exchanges are all that moves it.
CONFIG = Config(agent=AgentConfig(adopt_ratio=inf), evaluate_every=0.05)


class Still:
    """A learner whose rounds change nothing, or what `each_round` does."""

    def __init__(self, value: float = 0.0, each_round: Callable[[Still], None] = lambda _: None):
        self.w = torch.full((SIZE,), value)
        self.rounds = 0
        self.loaded = 0
        self._each_round = each_round

    @property
    def layout(self) -> Layout:
        return LAYOUT

    def parameters(self) -> Tensor:
        return self.w.clone()

    def load(self, parameters: Tensor) -> None:
        self.loaded += 1
        self.w.copy_(parameters)

    def train(self) -> int:
        self.rounds += 1
        self._each_round(self)
        return 1

    def evaluate(self) -> dict[str, float]:
        return {"mean": float(self.w.mean())}


def joining(other: Node, **settings: Any) -> Config:
    return Config(
        agent=CONFIG.agent, evaluate_every=0.05, join=(str(other.me.address),), **settings
    )


async def eventually(what: str, check: Callable[[], object]) -> None:
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while not check():
        assert asyncio.get_running_loop().time() < deadline, f"not within {PATIENCE} s: {what}"
        await asyncio.sleep(0.01)


async def first(events: AsyncIterator[Any], kind: type) -> Any:
    async with asyncio.timeout(PATIENCE):
        async for event in events:
            if isinstance(event, kind):
                return event
    raise AssertionError("events ended")


def completed(node: Node) -> int:
    return node.agent.stats.exchanges


@pytest.mark.parametrize("transport", ["auto", "udp", "tcp"])
def test_two_models_come_together_in_their_mean(transport: Literal["auto", "udp", "tcp"]) -> None:
    async def check() -> None:
        learners = Still(1.0), Still(3.0)
        config = replace(CONFIG, transport=transport)
        async with (
            Node(learners[0], config) as a,
            Node(learners[1], joining(a, transport=transport)) as b,
        ):
            await eventually("one model", lambda: float((a.agent.x - b.agent.x).abs().max()) < 1e-3)
            assert torch.allclose(a.agent.x, torch.full((SIZE,), 2.0), atol=1e-2)
            await eventually("metrics", lambda: abs(b.metrics.get("mean", 0) - 2.0) < 1e-2)
            assert completed(a) > 0
            for node in (a, b):
                await node.rest()
            for learner in learners:
                assert abs(learner.evaluate()["mean"] - 2.0) < 1e-2

    asyncio.run(check())


def test_events_tell_of_peers_and_exchanges() -> None:
    async def check() -> None:
        async with Node(Still(), CONFIG) as a:
            events = a.events()
            up = asyncio.create_task(first(events, PeerUp))
            await asyncio.sleep(0)
            async with Node(Still(1.0), joining(a)) as b:
                assert (await up).peer == b.me
                completed = await first(events, ExchangeCompleted)
                assert completed.peer == b.me
                assert completed.sent > 0
                down = asyncio.create_task(first(events, PeerDown))
            gone = await down
            assert gone.peer == b.me
            assert "left" in gone.reason

    asyncio.run(check())


def test_nobody_who_asks_while_we_leave_gets_a_link(tmp_path: Path) -> None:
    async def check() -> None:
        config = joining_nobody(tmp_path)
        async with Node(Still(), config) as a:
            address = a.me.address
            async with Node(Still(1.0), joining(a)) as b:
                await eventually("a link", lambda: b.agent.links)
                # The goodbye is said, and the checkpoint is not yet written.
                async with a._saving:
                    leaving = asyncio.create_task(a.leave())
                    await eventually("goodbye", lambda: not b.agent.links)
                    heard = a.endpoint.traffic.packets_received
                    b.agent.swarm.join([address], b._now())
                    b._after([])
                    # If it were accepted, its second packet would confirm the link.
                    await eventually(
                        "requests", lambda: a.endpoint.traffic.packets_received >= heard + 2
                    )
                    assert not a.agent.links
                await leaving

    asyncio.run(check())


def joining_nobody(state_dir: Path) -> Config:
    return Config(agent=CONFIG.agent, evaluate_every=0.05, state_dir=state_dir)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("no more data"), "no more data"),
        (StopIteration(), "StopIteration"),
        (SystemExit(0), "SystemExit"),
    ],
)
def test_a_learner_that_raises_ends_training_and_not_the_network(
    error: BaseException, expected: str
) -> None:
    def fail(learner: Still) -> None:
        if learner.rounds == 3:
            raise error

    async def check() -> None:
        async with Node(Still(1.0, fail), CONFIG) as a:
            async with asyncio.timeout(PATIENCE):
                with pytest.raises(RuntimeError, match=expected):
                    await a.finished
            async with Node(Still(3.0), joining(a)) as b:
                await eventually("exchanges", lambda: completed(a) > 3 and completed(b) > 3)
            assert a.agent.samples == 2

    asyncio.run(check())


def test_nan_is_refused_and_ends_training_only_if_it_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def spoil(learner: Still) -> None:
        if learner.rounds == 2 or learner.rounds >= 5:
            learner.w[3] = torch.nan

    async def check() -> None:
        learner = Still(1.0, spoil)
        async with Node(learner, CONFIG) as a:
            async with asyncio.timeout(PATIENCE):
                with pytest.raises(NotFinite, match="'w' contain NaN or infinity"):
                    await a.finished
            assert learner.rounds == 4 + HOPELESS
            assert a.agent.samples == 3, "rounds 1, 3 and 4"
            assert torch.equal(a.agent.x, torch.ones(SIZE))

    with caplog.at_level(logging.WARNING, "gossip"):
        asyncio.run(check())
    assert caplog.text.count("goes on from the last good model") == 1 + HOPELESS - 1


def test_a_round_that_is_lost_to_nan_does_not_count_merges_twice() -> None:
    """The sum of both models is that of the beginning, whatever merged during the lost rounds."""

    def spoil(learner: Still) -> None:
        if learner.rounds % 2 == 0:
            learner.w[:] = torch.nan

    async def check() -> None:
        learner = Still(1.0, spoil)
        async with Node(learner, CONFIG) as a, Node(Still(3.0), joining(a)) as b:
            await eventually("one model", lambda: float((a.agent.x - b.agent.x).abs().max()) < 1e-3)
            assert torch.allclose(a.agent.x, torch.full((SIZE,), 2.0), atol=1e-2)

    asyncio.run(check())


def test_leaving_saves_and_coming_back_goes_on(tmp_path: Path) -> None:
    def progress(learner: Still) -> None:
        learner.w += 1.0

    async def check() -> None:
        config = joining_nobody(tmp_path)
        async with Node(Still(0.0, progress), config) as a:
            await eventually("samples", lambda: a.agent.samples >= 3)
            await a.rest()
            samples, x = a.agent.samples, a.agent.x.clone()
        held = Event()
        learner = Still(0.0, lambda _: held.wait() and None)
        async with Node(learner, config) as again:
            try:
                assert again.me.id == a.me.id
                assert again.restored
                assert again.agent.samples == samples
                assert torch.equal(again.agent.x, x)
                await eventually("a round", lambda: learner.rounds)
                assert learner.loaded == 1
                assert torch.equal(learner.w, x)
            finally:
                held.set()
        assert again.agent.samples >= samples

    asyncio.run(check())


def test_what_merges_before_a_restored_model_is_loaded_counts_once(tmp_path: Path) -> None:
    async def check() -> None:
        config = joining_nobody(tmp_path)
        async with Node(Still(1.0), config):
            pass
        async with Node(Still(3.0), CONFIG) as b:
            restored = Node(Still(7.0), Config(**vars_of(config), join=(str(b.me.address),)))
            # The network is up, and exchanges, before training begins.
            await super(Node, restored).__aenter__()
            await eventually("a merge", lambda: completed(restored) and completed(b))
            restored.finished = asyncio.create_task(restored._learn())
            close = lambda: float((restored.agent.x - b.agent.x).abs().max()) < 1e-3  # noqa: E731
            await eventually("one model", close)
            assert torch.allclose(b.agent.x, torch.full((SIZE,), 2.0), atol=1e-2)
            await restored.__aexit__(None, None, None)

    asyncio.run(check())


def vars_of(config: Config) -> dict[str, Any]:
    return {"agent": config.agent, "evaluate_every": 0.05, "state_dir": config.state_dir}


class Keeper(Still):
    """A learner that keeps how many rounds it has trained in all its lives."""

    def __init__(self, fits: bool = True) -> None:
        super().__init__(1.0)
        self.lives = 0
        self._fits = fits

    def state(self) -> dict[str, Tensor]:
        return {"rounds": torch.tensor(self.lives + self.rounds)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        if not self._fits:
            raise ValueError("rounds are not what I count")
        self.lives = int(state["rounds"])


def test_what_training_keeps_outlives_the_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def check() -> None:
        config, first, second, third = joining_nobody(tmp_path), Keeper(), Keeper(), Keeper(False)
        async with Node(first, config):
            await eventually("a few rounds", lambda: first.rounds >= 3)
        async with Node(second, config):
            await eventually("another round", lambda: second.rounds)
        assert second.lives == first.rounds
        async with Node(third, config):
            await eventually("training goes on", lambda: third.rounds)
        assert "rounds are not what I count" in caplog.text
        assert third.lives == 0
        assert third.loaded, "the model does go on"

    asyncio.run(check())


def test_a_round_that_never_ends_keeps_nobody_from_leaving(tmp_path: Path) -> None:
    async def check() -> None:
        go = Event()

        class Stuck(Keeper):
            def train(self) -> int:
                go.wait()
                return super().train()

        node = Node(Stuck(), joining_nobody(tmp_path))
        async with node:
            saving = asyncio.create_task(node.save())  # waits for the round
            await asyncio.sleep(0)
            async with asyncio.timeout(PATIENCE):
                await node.leave()
            assert (tmp_path / "checkpoint.safetensors").exists()
            go.set()
            await saving

    asyncio.run(check())


def test_who_leaves_in_the_middle_of_a_round_saves_what_training_last_kept(tmp_path: Path) -> None:
    async def check() -> None:
        go = Event()
        config, first, last = joining_nobody(tmp_path), Keeper(), Keeper()
        second = Keeper()
        second.train = lambda: int(go.wait())  # type: ignore[method-assign]
        async with Node(first, config):
            await eventually("a few rounds", lambda: first.rounds >= 3)
        async with Node(second, config) as node:
            await eventually("what was kept", lambda: second.lives)
            await node.leave()
            go.set()
        async with Node(last, config):
            await eventually("another round", lambda: last.rounds)
        assert last.lives == first.rounds

    asyncio.run(check())


def test_a_checkpoint_of_another_model_is_refused_and_everything_closed(tmp_path: Path) -> None:
    async def check() -> None:
        config = joining_nobody(tmp_path)
        async with Node(Still(), config):
            pass
        other = Still()
        other.w = torch.zeros(SIZE + 1)
        type_ = type("Other", (Still,), {"layout": Layout(("w",), ((SIZE + 1,),), ("float32",))})
        other.__class__ = type_
        with pytest.raises(CheckpointError, match="another layout"):
            await Node(other, config).__aenter__()
        async with Node(Still(), config) as again:  # the lock is free, and so is the port
            assert again.restored

    asyncio.run(check())


def test_the_api_answers_while_the_learner_is_busy(tmp_path: Path) -> None:
    async def check() -> None:
        held = Event()
        learner = Still(1.0, lambda _: held.wait() and None)
        async with Node(learner, joining_nobody(tmp_path)):
            try:
                await eventually("a round", lambda: learner.rounds)
                known = json.loads((tmp_path / "api.json").read_text())
                headers = {"Authorization": f"Bearer {known['token']}"}
                url = f"http://{known['address']}/api/v1/status"
                async with (
                    asyncio.timeout(PATIENCE),
                    aiohttp.ClientSession() as session,
                    session.get(url, headers=headers) as answer,
                ):
                    assert (await answer.json())["samples"] == 0
            finally:
                held.set()

    asyncio.run(check())


def test_training_does_not_keep_the_swarm_from_looking_for_neighbours(tmp_path: Path) -> None:
    """The peers of earlier days are asked once, at the start, however often the node syncs."""
    gone = Peer(PeerId(bytes([7]) * 32), Address("127.0.0.1", 9))
    cache.save(tmp_path / "peers.json", [gone])

    async def check() -> None:
        async with Host(
            layout(nn.Linear(2, 1)), torch.zeros(3), Config(state_dir=tmp_path)
        ) as host:
            due = host.agent.swarm._timers.next()
            for _ in range(3):
                host.sync(torch.zeros(3), 1)
            assert host.agent.swarm._timers.next() == due

    asyncio.run(check())
