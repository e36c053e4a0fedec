"""What the service counts, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.registry import Collector

from recbole_gen.recommending.recommender import BY_MODEL, BY_POPULARITY

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics(Collector):
    """What has happened to one app since its start, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        shared: dict[str, Any] = {"namespace": "recbole_gen", "registry": self._registry}
        self.requests = Counter("requests", "Requests by path and status.", ["path", "status"], **shared)
        self.users = Counter("users", "Users answered, by the model or by popularity.", ["by"], **shared)
        for by in (BY_MODEL, BY_POPULARITY):
            self.users.labels(by)  # 0, and not missing
        self.unknown_items = Counter(
            "unknown_items", "Events left out, of items that the model does not know.", **shared
        )
        self.in_flight = Gauge("in_flight_requests", "Requests for recommendations under way.", **shared)
        self.waiting = Gauge("waiting_requests", "Requests that no call of the model has taken yet.", **shared)
        self.seconds = Histogram(
            "request_seconds", "From a request for recommendations to its answer.", buckets=SECONDS, **shared
        )
        self.batch_requests = Histogram(
            "batch_requests", "Requests that a call of the model answers.", buckets=SIZES, **shared
        )
        self.batch_users = Histogram("batch_users", "Users that a call of the model answers.", buckets=SIZES, **shared)

    def collect(self) -> Iterator[Metric]:
        """All but the library's series of when each counter began, which it has no switch for in one registry."""
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric

    def text(self) -> bytes:
        """In the text format of Prometheus, version 0.0.4."""
        return generate_latest(self)
