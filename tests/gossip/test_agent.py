"""Agents on a simulated network, without learners: what `sync` promises, and what merging does."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import pytest
import torch
from torch import Tensor

from gossip.agent import Agent, AgentConfig, ModelAdopted
from gossip.codec import decode
from gossip.errors import CodecError, NotFinite
from gossip.exchange import ExchangeCompleted, LinkOpened, ModelMismatched, PayloadRejected
from gossip.messages import TABLE as LEARNING
from gossip.messages import Half
from gossip.vector import Layout
from p2p import (
    Address,
    Channel,
    Conduct,
    Packet,
    Peer,
    PeerDown,
    PeerGraylisted,
    PeerId,
    PeerUp,
    Swarm,
    SwarmConfig,
)
from p2p.messages import TABLE, Payload
from sims.network import Link, Network
from sims.pair import exchange

SIZE = 200
LAYOUT = Layout(("body", "head"), ((SIZE - 10,), (10,)), ("float32", "float32"))


def peer(index: int) -> Peer:
    return Peer(PeerId(bytes([index + 1]) * 32), Address(f"10.0.0.{index}", 7946))


def agent(
    index: int,
    x: Tensor,
    layout: Layout = LAYOUT,
    incarnation: int = 1,
    conduct: Conduct | None = None,
    **more: int,
) -> Agent:
    rng = Random(f"{index}/{incarnation}")
    swarm = Swarm(peer(index), SwarmConfig(), rng, incarnation, conduct=conduct)
    return Agent(swarm, layout, x, AgentConfig(merge="mean"), rng, **more)  # type: ignore[arg-type]


def normal(seed: int, size: int = SIZE) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


@dataclass
class World:
    """Agents on a network; everybody syncs every second without training."""

    link: Link = field(default_factory=Link)
    agents: dict[int, Agent] = field(default_factory=dict)
    syncing: bool = True
    events: list[tuple[int, object]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.network = Network(0, self.link, self._on_event)

    def _on_event(self, address: Address, event: object, now: float) -> None:
        self.events.append((int(address.host.split(".")[-1]), event))

    def start(
        self, index: int, new: Agent, train: Callable[[Tensor], Tensor] = Tensor.clone
    ) -> None:
        new.swarm.join([peer(0).address], self.network.now)
        self.agents[index] = new
        self.network.attach(new, new.me.address)
        self._sync(index, new, new.x.clone(), train)

    def _sync(
        self, index: int, one: Agent, model: Tensor, train: Callable[[Tensor], Tensor]
    ) -> None:
        if self.agents.get(index) is not one or not self.syncing:
            return
        model = one.sync(train(model), 1, self.network.now).clone()
        self.network.pump(one.me.address)
        self.network.call_at(self.network.now + 0.5, self._sync, index, one, model, train)

    def crash(self, index: int) -> Agent:
        self.network.detach(peer(index).address)
        return self.agents.pop(index)

    def count(self, kind: type) -> int:
        return sum(isinstance(event, kind) for _, event in self.events)

    def apart(self) -> float:
        stacked = torch.stack([one.x for one in self.agents.values()])
        return float((stacked - stacked.mean(dim=0)).norm())

    def total(self) -> Tensor:
        return torch.stack([one.x for one in self.agents.values()]).double().sum(dim=0)


def test_alone_a_model_comes_back_as_the_very_same_object() -> None:
    one = agent(0, normal(0))
    for seed in range(5):
        parameters = normal(seed)
        assert one.sync(parameters, 1, float(seed)) is parameters
        assert torch.equal(one.x, parameters)


def test_agents_that_do_not_train_reach_the_mean_of_their_models() -> None:
    world = World()
    models = [normal(seed) for seed in range(6)]
    for index, model in enumerate(models):
        world.start(index, agent(index, model))
    apart = world.apart()
    world.network.run(120)
    mean = torch.stack(models).double().mean(dim=0)
    assert world.apart() < 1e-3 * apart
    for one in world.agents.values():
        assert torch.allclose(one.x.double(), mean, rtol=0, atol=1e-3)


def test_the_sum_of_all_models_survives_loss_repetition_and_reordering() -> None:
    world = World(Link(loss=0.3, duplicate=0.2, latency=(0.01, 0.4)))
    for index in range(5):
        world.start(index, agent(index, normal(index)))
    before = world.total()
    world.network.run(120)
    world.network.link, world.syncing = Link(), False  # all that is under way comes to an end
    world.network.run(30)
    assert not any(link.waiting for one in world.agents.values() for link in one.links.values())
    assert torch.allclose(world.total(), before, rtol=0, atol=1e-3)
    assert world.count(ExchangeCompleted) > 200


def test_progress_made_during_a_merge_is_not_lost() -> None:
    a, b = agent(0, torch.zeros(SIZE)), agent(1, torch.full((SIZE,), 2.0))
    b.swarm.join([a.me.address], 0.0)
    exchange(a, b, 0.0)
    model, other = a.x.clone(), b.x.clone()
    for now in range(1, 40):  # a trains all the while; b goes on exchanging
        other = b.sync(other, 1, float(now)).clone()
        exchange(a, b, float(now))
    assert float(a.x.mean()) == pytest.approx(1.0, abs=1e-3)
    merged = a.sync(model + 0.5, 1, 50.0)
    assert float(merged.mean()) == pytest.approx(1.5, abs=1e-3)


def test_one_exchange_of_our_own_is_under_way_at_a_time() -> None:
    world = World(Link(latency=(3.0, 3.0)))  # an exchange takes longer than a round of training
    for index in range(4):
        world.start(index, agent(index, normal(index)))
    apart = world.apart()
    for _ in range(200):
        world.network.run(1)
        for one in world.agents.values():
            assert sum(link.waiting for link in one.links.values()) <= len(one.links)
            assert one._initiative is None or one._initiative in one.links.values()
    assert world.apart() < 0.05 * apart


def test_a_neighbour_that_fell_silent_holds_nobody_up() -> None:
    world = World()
    for index in range(3):
        world.start(index, agent(index, normal(index)))
    world.network.run(10)
    world.crash(2)
    before = world.agents[0].stats.exchanges
    world.network.run(4)  # not long enough to be sure that it is dead
    assert peer(2).id in world.agents[0].links
    assert world.agents[0].stats.exchanges > before + 6


def test_nan_is_refused_with_the_layer_named_and_nothing_is_changed() -> None:
    one = agent(0, normal(0))
    bad = normal(0)
    bad[-1] = float("nan")
    before = one.x.clone()
    with pytest.raises(NotFinite, match="'head'"):
        one.sync(bad, 1, 0.0)
    assert torch.equal(one.x, before)
    assert one.samples == 0


HALVES = [torch.float16, torch.bfloat16]


def in_half(dtype: torch.dtype) -> Layout:
    name = str(dtype).removeprefix("torch.")
    return Layout(LAYOUT.names, LAYOUT.shapes, (name, name))


def rounding(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """A model in half precision that does not train: it holds what it was given, rounded."""
    return lambda given: given.to(dtype).float()


@pytest.mark.parametrize("dtype", HALVES)
def test_models_in_half_precision_agree_far_below_its_resolution(dtype: torch.dtype) -> None:
    world = World()
    models = [rounding(dtype)(1.0 + 0.01 * normal(seed)) for seed in range(6)]
    for index, model in enumerate(models):
        world.start(index, agent(index, model, in_half(dtype)), rounding(dtype))
    world.network.run(150)
    mean = torch.stack(models).double().mean(dim=0)
    assert torch.finfo(dtype).eps > 9e-4
    for one in world.agents.values():
        assert torch.allclose(one.x.double(), mean, rtol=0, atol=2e-5)
        assert torch.equal(one.handed_out, rounding(dtype)(one.handed_out))


@pytest.mark.parametrize("dtype", HALVES)
def test_alone_in_half_precision_a_model_comes_back_as_the_very_same_object(
    dtype: torch.dtype,
) -> None:
    one = agent(0, rounding(dtype)(normal(0)), in_half(dtype))
    for seed in range(5):
        parameters = rounding(dtype)(normal(seed))
        assert one.sync(parameters, 1, float(seed)) is parameters
        assert torch.equal(one.x, parameters)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_a_restored_vector_that_the_model_cannot_hold_is_not_taken_for_progress(
    dtype: torch.dtype,
) -> None:
    saved = normal(0)
    one = agent(0, saved, in_half(dtype))
    for now in range(3):
        one.sync(one.handed_out.clone(), 1, float(now))
    assert torch.equal(one.x, saved)
    one.sync(one.handed_out + 0.5, 1, 9.0)
    assert torch.allclose(one.x, saved + 0.5, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 131_072 + 1])
def test_models_of_any_size_come_together(size: int) -> None:
    layout = Layout(("w",), ((size,),), ("float32",))
    a, b = (agent(seed, normal(seed, size), layout) for seed in range(2))
    total, apart = a.x + b.x, float((a.x - b.x).norm())
    b.swarm.join([a.me.address], 0.0)
    exchange(a, b, 0.0)
    for now in range(1, 60):
        one = (a, b)[now % 2]
        one.sync(one.handed_out.clone(), 1, float(now))
        exchange(a, b, float(now))
    assert float((a.x - b.x).norm()) < 0.01 * apart
    assert torch.allclose(a.x + b.x, total, rtol=0, atol=1e-4)


def test_running_statistics_come_together_beside_small_weights() -> None:
    layout = Layout(("w", "bn.running_var"), ((180,), (20,)), ("float32",) * 2, buffers=1)
    world = World()
    models = [torch.cat((0.01 * normal(i, 180), 30 * normal(i, 20).abs())) for i in range(5)]
    for index, model in enumerate(models):
        world.start(index, agent(index, model, layout))
    world.network.run(120)
    mean = torch.stack(models).mean(dim=0)
    for one in world.agents.values():
        assert torch.allclose(one.x[:180], mean[:180], rtol=0, atol=1e-4)
        assert torch.allclose(one.x[180:], mean[180:], rtol=0.01, atol=0)
        assert bool((one.handed_out[180:] >= 0).all())


def test_large_finite_models_are_not_taken_for_infinite_ones() -> None:
    one = agent(0, torch.full((SIZE,), 3e38))
    one.sync(torch.full((SIZE,), 3.1e38), 1, 0.0)


def test_a_model_of_another_size_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="200 coordinates"):
        agent(0, normal(0)).sync(normal(0, 3), 1, 0.0)


def test_a_newcomer_takes_over_a_model_that_has_seen_much_more() -> None:
    world = World()
    world.start(0, agent(0, normal(0), samples=1000))
    world.start(1, agent(1, normal(1)))
    world.network.run(2)
    assert world.count(ModelAdopted) == 1
    assert world.agents[1].samples >= 1000
    assert float((world.agents[1].x - normal(0)).norm()) < 0.02 * float(normal(0).norm())


def test_agents_of_about_the_same_age_do_not_take_each_other_over() -> None:
    world = World()
    world.start(0, agent(0, normal(0), samples=1000))
    world.start(1, agent(1, normal(1), samples=900))
    world.network.run(5)
    assert world.count(ModelAdopted) == 0
    assert world.count(LinkOpened) == 2


def test_an_agent_restarted_in_the_middle_of_exchanges_settles_them_and_the_sum_is_kept() -> None:
    world = World(Link(loss=0.3))
    for index in range(3):
        world.start(index, agent(index, normal(index)))
    before = world.total()
    for incarnation in range(2, 12):
        world.network.run(5)
        old = world.crash(1)  # at any point of an exchange; its state was saved just before
        new = agent(1, old.x, incarnation=incarnation, samples=old.samples)
        new._receipts.update(old.receipts())
        world.start(1, new)
    world.network.link = Link()
    world.network.run(60)
    assert world.apart() < 0.01
    assert torch.allclose(world.total(), before, rtol=0, atol=1e-3)


def test_agents_of_different_models_stay_neighbours_and_exchange_nothing() -> None:
    world = World()
    world.start(0, agent(0, normal(0)))
    other = Layout(("body", "head"), ((SIZE - 10,), (12,)), ("float32", "float32"))
    world.start(1, agent(1, normal(1, SIZE + 2), other))
    world.network.run(30)
    assert world.count(PeerUp) == 2
    assert world.count(PeerDown) == 0
    assert world.count(ExchangeCompleted) == 0
    (one, *_) = [event for _, event in world.events if isinstance(event, ModelMismatched)]
    assert "head is float32" in one.difference


def test_the_receipts_of_lost_links_are_bounded() -> None:
    world = World()
    world.start(0, agent(0, normal(0)))
    for index in range(1, 80):
        world.start(index, agent(index, normal(index)))
        world.network.run(3)
        world.crash(index)
    world.network.run(10)
    kept = [
        kept
        for peer, kept in world.agents[0].receipts().items()
        if peer not in world.agents[0].links
    ]
    assert 5 < len(kept) <= 64
    assert sum(len(receipt.mine) + len(receipt.theirs) for receipt in kept) <= 4 * SIZE


@pytest.mark.parametrize(
    ("payload", "proven", "blamed"),
    [(b"\xc1", True, True), (b"\xc1", False, False), (b"\x91\x7e", True, False)],
    ids=["nonsense", "nonsense of anybody", "a newer message"],
)
def test_nonsense_in_a_payload_is_held_against_whoever_has_proven_to_have_sent_it(
    payload: bytes, proven: bool, blamed: bool
) -> None:
    a, b = agent(0, normal(0)), agent(1, normal(1), conduct=Conduct())
    a.swarm.join([b.me.address], 0.0)
    exchange(a, b, 0.0)
    link = b.swarm.neighbours[a.me.id]
    data = TABLE.encode(Payload(link.mine), payload)
    packet = Packet(a.me.address, data, Channel.DATAGRAM, a.me.id if proven else None)
    events = [type(event) for event in b.receive(packet, 1.0) + b.receive(packet, 2.0)]
    rejected = [] if payload == b"\x91\x7e" else [PayloadRejected] * 2
    assert events == rejected + [PeerGraylisted, PeerDown] * blamed
    assert (a.me.id in b.links) is not blamed


def carry(a: Agent, b: Agent, now: float, forge: Callable[[bytes], bytes]) -> list[object]:
    """Between two agents that have proven who they are; what b says of it. a's payloads are forged
    on the way."""
    events: list[object] = []
    while packets := [(one, packet) for one in (a, b) if (packet := one.poll_transmit())]:
        for sender, packet in packets:
            data = forge(packet.data) if sender is a else packet.data
            arrived = Packet(sender.me.address, data, packet.channel, sender.me.id)
            happened = (b if sender is a else a).receive(arrived, now)
            events += happened if sender is a else []
    return events


def as_it_is(data: bytes) -> bytes:
    return data


def with_nan(data: bytes) -> bytes:
    """A half whose table of values says NaN throughout; anything else as it is."""
    if not isinstance(message := TABLE.decode(memoryview(data))[0], Payload):
        return data
    payload = TABLE.decode(memoryview(data))[1]
    half, body = LEARNING.decode(payload)
    if not isinstance(half, Half) or not half.n:
        return data
    patch = bytes(body)
    for at in range(len(patch)):
        forged = patch[:at] + b"\xc0\x7f" + patch[at + 2 :]
        try:
            decode(forged, SIZE)
        except CodecError as error:
            if "NaN" in str(error):
                return TABLE.encode(message, LEARNING.encode(half, forged))
    return data


@pytest.mark.parametrize(
    ("lie", "forge", "reason"),
    [(1e31, as_it_is, "no model's"), (1.0, with_nan, "NaN or infinity")],
    ids=["oversized", "not finite"],
)
def test_a_difference_that_no_model_has_is_refused_and_held_against_its_sender(
    lie: float, forge: Callable[[bytes], bytes], reason: str
) -> None:
    a, b = agent(0, normal(0)), agent(1, normal(1), conduct=Conduct())
    a.swarm.join([b.me.address], 0.0)
    carry(a, b, 0.0, as_it_is)
    for one in (a, b):
        one.sync(one.x.clone(), 1, 1.0)
    carry(a, b, 1.0, as_it_is)
    before = b.x.clone()
    lying = a.x.clone()
    lying[7] += lie
    a.sync(lying, 1, 2.0)
    events = carry(a, b, 2.0, forge)
    a.handle_timeout(30.0)
    events += carry(a, b, 30.0, forge)
    rejected = [event for event in events if isinstance(event, PayloadRejected)]
    assert len(rejected) == 2
    assert all(reason in event.reason for event in rejected)
    assert torch.equal(b.x, before)
    assert any(isinstance(event, PeerGraylisted) for event in events)
    assert a.me.id not in b.links
