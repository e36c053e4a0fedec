"""What the service counts, as Prometheus reads it."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from recbole_gen.recommending.recommender import BY_MODEL, BY_POPULARITY

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class _Histogram:
    """How many values lie below each bound, as Prometheus counts them."""

    def __init__(self, bounds: Sequence[float]):
        self.bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self, name: str) -> list[str]:
        totals = np.cumsum(self.counts).tolist()
        bounds = [*map(str, self.bounds), "+Inf"]
        lines = [f'{name}_bucket{{le="{bound}"}} {total}' for bound, total in zip(bounds, totals)]
        return [*lines, f"{name}_sum {self.sum}", f"{name}_count {totals[-1]}"]


class Metrics:
    """What has happened since the start; everything is counted in the thread of the event loop."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.users: Counter[str] = Counter({BY_MODEL: 0, BY_POPULARITY: 0})
        self.unknown_items = self.in_flight = 0
        self.seconds, self.batch_requests, self.batch_users = map(_Histogram, (SECONDS, SIZES, SIZES))

    def text(self, waiting: int) -> str:
        """In the text format of Prometheus, version 0.0.4."""
        lines: list[str] = []

        def series(kind: str, name: str, about: str, values: Callable[[str], list[str]]) -> None:
            name = f"recbole_gen_{name}"
            lines.extend([f"# HELP {name} {about}", f"# TYPE {name} {kind}", *values(name)])

        series("counter", "requests_total", "Requests by path and status.", lambda name: [
            f'{name}{{path="{path}",status="{status}"}} {count}'
            for (path, status), count in sorted(self.requests.items())
        ])  # fmt: skip
        series("counter", "users_total", "Users answered, by the model or by popularity.", lambda name: [
            f'{name}{{by="{by}"}} {count}' for by, count in self.users.items()
        ])  # fmt: skip
        series("counter", "unknown_items_total", "Events left out, of items that the model does not know.",
               lambda name: [f"{name} {self.unknown_items}"])  # fmt: skip
        series("gauge", "in_flight_requests", "Requests for recommendations under way.",
               lambda name: [f"{name} {self.in_flight}"])  # fmt: skip
        series("gauge", "waiting_requests", "Requests that no call of the model has taken yet.",
               lambda name: [f"{name} {waiting}"])  # fmt: skip
        series("histogram", "request_seconds", "From a request for recommendations to its answer.", self.seconds.lines)
        series("histogram", "batch_requests", "Requests that a call of the model answers.", self.batch_requests.lines)
        series("histogram", "batch_users", "Users that a call of the model answers.", self.batch_users.lines)
        return "\n".join(lines) + "\n"
