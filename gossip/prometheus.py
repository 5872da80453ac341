"""A node in Prometheus' words: what /metrics says.

Names follow its conventions: a prefix, base units, `_total` after what only grows; no label has
more values than we have written down, a peer's id is none. prometheus-client is imported by the
first who asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from time import monotonic, time
from typing import TYPE_CHECKING, Any

from gossip.observer import Observed, Observer
from gossip.routes import DISTRIBUTION

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Exposition:
    """The figures of one node, in a registry of its own."""

    def __init__(self, node: Observed, observer: Observer) -> None:
        self._node, self._observer = node, observer
        self._registry: CollectorRegistry | None = None
        self.predictions: dict[str, int] = {"answered": 0, "refused": 0}
        self.predicting = 0.0  # seconds, all together
        self._started = time()

    def render(self) -> bytes:
        """All of it, as text."""
        from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

        if self._registry is None:
            self._registry = CollectorRegistry()
            self._registry.register(self)
            ProcessCollector(registry=self._registry)
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """What the registry asks for."""
        yield from self._learning()
        yield from self._network()
        yield from self._others()

    def _learning(self) -> Iterator[Metric]:
        agent = self._node.agent
        yield _gauge("build_info", "Constant 1.", {(version(DISTRIBUTION),): 1}, "version")
        yield _gauge("start_time_seconds", "Unix time at which it started.", self._started)
        yield _counter("samples", "Samples that the model has seen.", agent.samples)
        yield _counter("rounds", "Rounds of training.", agent.stats.rounds)
        yield _counter("exchanges", "Exchanges completed.", agent.stats.exchanges)
        yield _counter("dense_bytes", "What the halves sent would be.", agent.stats.bytes_dense)
        yield _counter("clipped", "Exchanges merged in part only.", agent.guard.clipped)
        yield _gauge("last_exchange_time_seconds", "Unix time.", self._observer.exchanged)
        saved = None if self._node.disk is None else self._node.disk.saved
        when = 0.0 if saved is None else time() - (monotonic() - saved)
        yield _gauge("last_checkpoint_time_seconds", "Unix time; 0: there was none.", when)
        measured = {(name,): value for name, value in self._node.metrics.items()}
        yield _gauge("model_metric", "How good the model is.", measured, "metric")
        distance = self._observer.distance()
        if distance is not None:
            yield _gauge("consensus_distance_ratio", "To neighbours, of its length.", distance)

    def _network(self) -> Iterator[Metric]:
        swarm, traffic = self._node.agent.swarm, self._node.endpoint.traffic
        links = list(swarm.neighbours.values())
        yield _gauge("neighbours", "Links that are up.", len(links))
        yield _gauge("roster_peers", "Peers known, this one too.", len(swarm.roster.entries))
        slowest = max((link.round_trip.smoothed for link in links), default=0.0)
        yield _gauge("round_trip_seconds", "To the slowest neighbour.", slowest)
        for name, sent, received in (
            ("bytes", traffic.bytes_sent, traffic.bytes_received),
            ("packets", traffic.packets_sent, traffic.packets_received),
            ("dropped_packets", traffic.dropped_out, traffic.dropped_in),
        ):
            both = {("sent",): sent, ("received",): received}
            yield _counter(name, "Through the swarm's port.", both, "direction")
        done = {("succeeded",): traffic.handshakes, ("failed",): traffic.handshakes_failed}
        yield _counter("handshakes", "Inbound.", done, "result")

    def _others(self) -> Iterator[Metric]:
        yield _gauge("bans", "Peers and invitations kept out.", len(self._node.access.bans()))
        happened = {(name,): count for name, count in sorted(self._observer.counts.items())}
        yield _counter("events", "What happened.", happened, "event")
        waiting = {(name,): size for name, size in self._node.endpoint.queues.items()}
        yield _gauge("queue_size", "What waits.", waiting, "queue")
        answers = {(result,): count for result, count in self.predictions.items()}
        yield _counter("predictions", "Requests.", answers, "result")
        yield _counter("prediction_seconds", "Spent on them.", self.predicting)


def _counter(name: str, about: str, value: Any, label: str = "") -> Metric:
    from prometheus_client.metrics_core import CounterMetricFamily

    return _filled(CounterMetricFamily(f"gossip_{name}", about, labels=_labels(label)), value)


def _gauge(name: str, about: str, value: Any, label: str = "") -> Metric:
    from prometheus_client.metrics_core import GaugeMetricFamily

    return _filled(GaugeMetricFamily(f"gossip_{name}", about, labels=_labels(label)), value)


def _labels(label: str) -> list[str]:
    return [label] if label else []


def _filled(family: Any, value: Any) -> Metric:
    for labels, number in (value if isinstance(value, dict) else {(): value}).items():
        family.add_metric(list(labels), number)
    return family  # type: ignore[no-any-return]
