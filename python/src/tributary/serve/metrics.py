"""What /metrics tells: one registry for each server."""

from __future__ import annotations

from collections.abc import Callable

import prometheus_client as prometheus

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    def __init__(self) -> None:
        self.registry = prometheus.CollectorRegistry()
        self.requests = prometheus.Counter(
            "tributary_serve_requests", "Requests by path and status; 499: the client went away", ["path", "status"],
            registry=self.registry)
        self.tokens = prometheus.Counter(
            "tributary_serve_tokens", "Tokens of finished answers: prompt (cached ones included), cached, completion",
            ["kind"], registry=self.registry)
        self.first_token_s = prometheus.Histogram(
            "tributary_serve_first_token_seconds", "From a request's arrival to its first text", buckets=_SECONDS,
            registry=self.registry)
        self.between_texts_s = prometheus.Histogram(
            "tributary_serve_between_texts_seconds", "Between two pieces of text of an answer", buckets=_SECONDS,
            registry=self.registry)

    def gauge(self, name: str, what: str, value: Callable[[], float]) -> None:
        """`value` is asked at each scrape."""
        prometheus.Gauge(f"tributary_serve_{name}", what, registry=self.registry).set_function(value)

    def exposition(self) -> bytes:
        return prometheus.generate_latest(self.registry)
