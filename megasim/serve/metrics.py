"""What Prometheus is told of the service: requests, jobs, readers."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from megasim.serve.service import Service
from megasim.words import JobState

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The metrics of one service."""

    def __init__(self, service: Service) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(_Jobs(service))
        self._requests = Counter(
            "megasim_requests",
            "Requests that were answered.",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "megasim_request_seconds",
            "How long requests took.",
            ("method", "route"),
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.3, 0.5, 1, 2.5, 5, 10, 30),
            registry=self._registry,
        )

    def note(self, method: str, route: str, status: int, seconds: float) -> None:
        """Note a request.

        Args:
            route: its pattern, so that nobody makes rows by making addresses up.
        """
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def text(self) -> bytes:
        """Return all of it as Prometheus reads it."""
        return generate_latest(self._registry)


class _Jobs(Collector):
    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """Yield what is looked up when it is asked for."""
        counts = self._service.jobs.counts()
        jobs = GaugeMetricFamily("megasim_jobs", "Jobs by what became of them.", labels=["state"])
        for state in JobState:
            jobs.add_metric([str(state)], counts.get(str(state), 0))
        yield jobs
        yield GaugeMetricFamily(
            "megasim_sessions", "Programs that read.", value=self._service.sessions.count()
        )
        yield GaugeMetricFamily(
            "megasim_store_revision",
            "How often something was saved since the service was started.",
            value=self._service.owner.revision,
        )
