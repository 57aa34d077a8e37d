"""What Prometheus is told: requests, followers, submitted runs; workers and the queue at each look.

Entry point: ``Metrics``, one for each application, with a registry of its own.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from plush_worker.model import WorkerInfo

CONTENT_TYPE = CONTENT_TYPE_LATEST
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    """Counters that last as long as the process, and gauges set when somebody looks."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "plush_api_requests", "Requests by route and status.", ("method", "route", "status"), registry=registry
        )
        self._seconds = Histogram(
            "plush_api_seconds", "Time to the first byte of an answer.", ("route",), buckets=_BUCKETS_S,
            registry=registry,
        )  # fmt: skip
        self.followers = Gauge("plush_api_followers", "Open streams of events and output.", registry=registry)
        self.submitted = Counter("plush_api_runs_submitted", "Runs stored through this API.", registry=registry)
        self._redis_up = Gauge("plush_redis_up", "Whether Redis answers this process.", registry=registry)
        self._workers = Gauge("plush_workers", "Live workers.", registry=registry)
        self._load = Gauge("plush_worker_hosts", "Hosts under a worker.", ("worker",), registry=registry)
        self._capacity = Gauge("plush_worker_capacity", "Hosts that a worker takes.", ("worker",), registry=registry)
        self._queued = Gauge("plush_queued_runs", "Runs that wait for a worker to take them.", registry=registry)

    def began(self, scope: MutableMapping[str, Any], status: int, seconds: float) -> None:
        """The answer to a request begins."""
        # The route's own pattern: a path with ids would make a series for each run.
        route = getattr(scope.get("route"), "path", "unknown")
        self._requests.labels(scope["method"], route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self, workers: Sequence[WorkerInfo] | None, queued: int) -> bytes:
        """The exposition; ``workers`` is None when Redis doesn't answer."""
        self._redis_up.set(workers is not None)
        self._workers.set(len(workers or ()))
        self._queued.set(queued)
        self._load.clear()
        self._capacity.clear()
        for worker in workers or ():
            self._load.labels(worker.name).set(worker.load)
            self._capacity.labels(worker.name).set(worker.capacity)
        return generate_latest(self._registry)
