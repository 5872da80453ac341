"""What lies between nodes, and what they run on, drawn from an experiment's seed.

Every pair of nodes may have a latency of its own, every node rates, a speed and a clock of its own,
and some may sit behind a NAT. What one packet meets (jitter, loss) `sims.network` draws when it is
sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, inf, log
from random import Random
from typing import Literal

from p2p import Address
from sims.network import Link, Network, Route

PLAIN = Link()
TAIL = 1.645  # standard deviations of a normal distribution that 5 % lie above


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """What lies between any two nodes."""

    latency: tuple[float, float] = PLAIN.latency
    """Seconds one way. Between the two, uniform, for every datagram anew (`links` = alike); of the
    links, with 5 % below and 5 % above where they are lognormal."""

    links: Literal["alike", "uniform", "lognormal"] = "alike"
    """Whether each pair of nodes has a latency of its own, and how those are distributed. Lognormal
    fits what is measured between hosts of the internet (King data set: median 0.08 s)."""

    jitter: float = 0.1
    """Share by which a datagram is earlier or later than its link's own latency. A guess."""

    loss: float = PLAIN.loss
    """Share of datagrams that vanish."""

    duplicate: float = PLAIN.duplicate
    """Share of datagrams that arrive twice."""

    reorder: float = PLAIN.reorder
    """Share of datagrams that take three times as long, so that later ones overtake them."""

    up: float = PLAIN.bandwidth
    """Bytes a second that a node can send."""

    down: float = PLAIN.down
    """Bytes a second that a node can receive."""

    queue: float = PLAIN.queue
    """Seconds that a datagram waits for its sender's uplink at most; beyond, it is dropped."""

    clock_skew: float = 0.0
    """Seconds by which clocks are ahead at most, uniform from 0."""

    clock_drift: float = 0.0
    """Share by which clocks run fast or slow at most; 1e-4 is a bad quartz."""

    def __post_init__(self) -> None:
        self.link()
        if not 0 <= self.jitter < 1:
            raise ValueError(f"jitter is a share from 0 to below 1, not {self.jitter}")
        if self.links == "lognormal" and not self.latency[0] > 0:
            raise ValueError("lognormal latencies are above 0: latency = [0, ...] cannot be")
        if not (0 <= self.clock_skew < inf and 0 <= self.clock_drift < 0.5):
            raise ValueError(
                f"clocks are 0 or more seconds ahead and less than 0.5 fast, not "
                f"{self.clock_skew} and {self.clock_drift}"
            )

    def link(self) -> Link:
        """What lies between two nodes of the usual kind. Raises ValueError."""
        return Link(
            latency=self.latency,
            loss=self.loss,
            duplicate=self.duplicate,
            reorder=self.reorder,
            bandwidth=self.up,
            down=self.down,
            queue=self.queue,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceConfig:
    """A kind of node that is not the usual one."""

    share: float
    """Of all nodes."""

    slowdown: float = 1.0
    """How many times longer it trains; 10 and more make a straggler."""

    up: float | None = None
    """Bytes a second that it can send. None: as all."""

    down: float | None = None
    """Bytes a second that it can receive. None: as all."""

    nat: bool = False
    """Whether it sits behind a NAT or a firewall that lets in only what answers (RFC 4787:
    address-dependent filtering). Nodes 0 and 1, whom the others know, never do."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share is above 0 and at most 1, not {self.share}")
        for name in ("slowdown", "up", "down"):
            value = getattr(self, name)
            if value is not None and not 0 < value < inf:
                raise ValueError(f"{name} is above 0, not {value}")


USUAL = DeviceConfig(share=1.0)


def devices(kinds: Sequence[DeviceConfig], nodes: int, seed: int) -> list[DeviceConfig]:
    """What each node runs on. Raises ValueError where the shares are more than all nodes."""
    if sum(kind.share for kind in kinds) > 1 + 1e-9:
        raise ValueError("the shares of devices add up to more than 1")
    order = Random(f"devices {seed}").sample(range(nodes), nodes)
    found = [USUAL] * nodes
    first, upto = 0, 0.0
    for kind in kinds:
        upto += kind.share
        last = round(upto * nodes)
        for node in order[first:last]:
            found[node] = kind
        first = last
    return found


class Routes:
    """The link of every route, made when it is first used; for `Network.routes`."""

    def __init__(
        self,
        config: NetworkConfig,
        kinds: Sequence[DeviceConfig],
        addresses: Sequence[Address],
        seed: int,
    ) -> None:
        self._config = config
        self._seed = seed
        self._kinds = dict(zip(addresses, kinds, strict=True))
        self._usual = config.link()
        self._links: dict[Route, Link] = {}

    def __call__(self, source: Address, target: Address) -> Link:
        """What lies on the way from one node to another."""
        route = (source, target)
        link = self._links.get(route)
        if link is None:
            link = self._links[route] = self._make(source, target)
        return link

    def _make(self, source: Address, target: Address) -> Link:
        sender = self._kinds.get(source, USUAL)
        receiver = self._kinds.get(target, USUAL)
        return replace(
            self._usual,
            latency=self._latency(*sorted((source, target), key=str)),
            bandwidth=sender.up or self._usual.bandwidth,
            down=receiver.down or self._usual.down,
        )

    def _latency(self, a: Address, b: Address) -> tuple[float, float]:
        low, high = self._config.latency
        rng = Random(f"link {self._seed} {a} {b}")
        match self._config.links:
            case "alike":
                return low, high
            case "uniform":
                own = rng.uniform(low, high)
            case "lognormal":
                middle, spread = log(low * high) / 2, log(high / low) / (2 * TAIL)
                own = exp(rng.gauss(middle, spread))
        return own * (1 - self._config.jitter), own * (1 + self._config.jitter)


def impose(
    network: Network,
    config: NetworkConfig,
    kinds: Sequence[DeviceConfig],
    addresses: Sequence[Address],
    seed: int,
) -> None:
    """Make a network so, before anybody is on it."""
    own_rates = any(kind.up or kind.down for kind in kinds)
    if config.links != "alike" or own_rates:
        network.routes = Routes(config, kinds, addresses, seed)
    rng = Random(f"clocks {seed}")
    for place, (address, kind) in enumerate(zip(addresses, kinds, strict=True)):
        if kind.nat and place > 1:
            network.shelter(address)
        if config.clock_skew or config.clock_drift:
            drift = rng.uniform(-config.clock_drift, config.clock_drift)
            jump = rng.uniform(0, config.clock_skew)
            network.clock(address).change(0.0, jump, 1 + drift)
