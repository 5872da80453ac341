"""Who counts as dead, and when. Virtual time; the gates are those of SWIM and Lifeguard."""

from dataclasses import dataclass, field, replace
from hashlib import sha256
from random import Random

import pytest

from p2p import (
    Address,
    Channel,
    LivenessConfig,
    Packet,
    Peer,
    PeerDown,
    PeerId,
    Swarm,
    SwarmConfig,
)
from sims.network import Host, Link, Network

NODES = 16


def peer(index: int) -> Peer:
    key = PeerId(sha256(b"%d" % index).digest())
    return Peer(key, Address(f"10.0.{index // 256}.{index % 256}", 7946))


@dataclass
class World:
    """A swarm that has found itself, and who was declared dead since."""

    nodes: int = NODES
    link: Link = field(default_factory=Link)
    liveness: LivenessConfig = field(default_factory=LivenessConfig)
    seed: int = 0
    deaths: list[tuple[float, int, int]] = field(default_factory=list)  # when, by whom, of whom

    def __post_init__(self) -> None:
        self.index = {peer(i).address: i for i in range(self.nodes)}
        self.network = Network(self.seed, self.link, self._on_event)
        config = SwarmConfig(liveness=self.liveness)
        self.swarms = []
        for i in range(self.nodes):
            one = Swarm(peer(i), config, Random(f"{self.seed}/{i}"), 1)
            one.join([peer(0).address] if i else [], self.network.now)
            self.swarms.append(one)
            self.network.attach(one, one.me.address)
            self.network.run(0.1)
        self.network.run(30)
        self.deaths.clear()

    def _on_event(self, address: Address, event: object, now: float) -> None:
        if isinstance(event, PeerDown) and event.reason.startswith("silent"):
            self.deaths.append((now, self.index[address], self.index[event.peer.address]))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_a_crash_is_known_to_all_neighbours_within_six_seconds(loss: float, seed: int) -> None:
    world = World(link=Link(loss=loss), seed=seed)
    victim = world.swarms[7]
    crashed = world.network.now
    world.network.detach(victim.me.address)
    world.network.run(6)
    assert world.deaths
    assert all(victim.me.id not in one.neighbours for one in world.swarms if one is not victim)
    world.network.run(24)
    assert all(of == 7 for _, _, of in world.deaths)
    assert max(at for at, _, _ in world.deaths) - crashed <= 6.0


def test_two_peers_notice_each_others_crash_without_anybody_to_ask() -> None:
    world = World(nodes=2)
    crashed = world.network.now
    world.network.detach(peer(1).address)
    world.network.run(10)
    assert [(by, of) for _, by, of in world.deaths] == [(0, 1)]
    assert world.deaths[0][0] - crashed < 6


@pytest.mark.parametrize(("loss", "most"), [(0.1, 0), (0.3, 2)])
def test_loss_alone_kills_nobody(loss: float, most: int) -> None:
    world = World(link=Link(loss=loss))
    world.network.run(300)
    assert len(world.deaths) <= most


def test_a_process_that_is_busy_five_seconds_of_every_six_is_never_declared_dead() -> None:
    world = World()
    for at in range(100):
        for victim in range(0, NODES, 4):
            world.network.call_at(
                world.network.now + 6.0 * at + 0.3 * victim,
                world.network.freeze,
                peer(victim).address,
                5.0,
            )
    world.network.run(600)
    assert not world.deaths, "it neither dies nor kills"


def false_deaths(liveness: LivenessConfig) -> int:
    """A quarter of 32 nodes stall for 16 s at a time; how often are the healthy called dead?"""
    world = World(nodes=32, liveness=liveness)
    slow = set(range(0, 32, 4))
    for victim in slow:
        at = world.network.now
        while at < world.network.now + 120:
            world.network.call_at(at, world.network.stall, peer(victim).address, 16.4)
            at += 16.4 + 0.256
    world.network.run(130)
    return sum(of not in slow for _, _, of in world.deaths)


def test_the_slow_do_not_declare_the_healthy_dead() -> None:
    plain = LivenessConfig(suspicion=0.0, doubt=1.0, worst_health=0)
    without, with_ = false_deaths(plain), false_deaths(LivenessConfig())
    assert without >= 50
    assert with_ <= 0.02 * without


@pytest.mark.parametrize("transport", ["auto", "tcp"])
def test_a_peer_that_only_its_neighbour_cannot_reach_lives(transport: str) -> None:
    """An asymmetric failure: the helpers vouch for it. By TCP no answer reaches the port that a
    packet came from."""
    world = World()
    one = world.swarms[3]
    other = next(iter(one.neighbours.values()))
    blocked = {one.me.address, other.address}
    deliver = world.network._deliver

    def drop(sender: Host, packet: Packet) -> None:
        if {sender.address, packet.address} != blocked:
            if transport == "tcp":
                sender = replace(sender, address=Address(sender.address.host, 50000))
                packet = replace(packet, channel=Channel.STREAM)
            deliver(sender, packet)

    world.network._deliver = drop  # type: ignore[method-assign]
    world.network.run(60)
    assert not world.deaths


def test_a_laptop_that_slept_for_long_comes_back() -> None:
    world = World()
    sleeper = world.swarms[5]
    world.network.freeze(sleeper.me.address, 900)
    world.network.run(900)
    assert all(of == 5 for _, _, of in world.deaths)
    assert all(sleeper.me.id not in one.neighbours for one in world.swarms if one is not sleeper)
    world.network.run(60)
    assert len(sleeper.neighbours) >= 3
    for link in sleeper.neighbours.values():
        assert sleeper.me.id in world.swarms[world.index[link.address]].neighbours
