"""Numbers for Prometheus: what the gateway sees of requests, and what the runtime says of itself when asked."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from branchwork.runtime.wire.messages import Usage

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class RuntimeNumbers(Collector):
    """The runtime's "stats", as gauges; empty while no runtime answers."""

    def __init__(self) -> None:
        self.stats: dict[str, object] = {}

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One gauge for each number."""
        for name, value in _numbers("branchwork", self.stats):
            yield GaugeMetricFamily(name, "as the runtime reports it", value=value)


def _numbers(prefix: str, values: dict[str, object]) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _numbers(f"{prefix}_{name}", value)
        elif isinstance(value, int | float):
            yield f"{prefix}_{name}", float(value)


class Metrics:
    """All numbers of one gateway, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._runtime = RuntimeNumbers()
        self.registry.register(self._runtime)
        own = self.registry
        self.requests = Counter(
            "branchwork_http_requests", "answered requests", ("route", "status"), registry=own
        )
        self.running = Gauge("branchwork_http_running", "requests being answered", registry=own)
        self.up = Gauge("branchwork_runtime_up", "1 while a runtime answers", registry=own)
        self.starts = Counter("branchwork_runtime_starts", "starts of the runtime", registry=own)
        self.disconnects = Counter(
            "branchwork_http_disconnects", "requests whose client hung up", registry=own
        )
        self.first_token = Histogram(
            "branchwork_first_token_seconds",
            "from a request's arrival to its first token",
            buckets=_SECONDS,
            registry=own,
        )
        self.between_tokens = Histogram(
            "branchwork_between_tokens_seconds",
            "between two pieces of a stream",
            buckets=_SECONDS,
            registry=own,
        )
        self.whole = Histogram(
            "branchwork_request_seconds",
            "from a request's arrival to its end",
            buckets=_SECONDS,
            registry=own,
        )
        self.tokens = Counter(
            "branchwork_tokens",
            "prompt (cached, computed) and answer (sampled, jumped, speculated)",
            ("kind",),
            registry=own,
        )

    def add_usage(self, usage: Usage) -> None:
        """Count the tokens of one request."""
        self.tokens.labels("cached").inc(usage.cached)
        self.tokens.labels("computed").inc(max(usage.prompt - usage.cached, 0))
        self.tokens.labels("sampled").inc(usage.sampled)
        self.tokens.labels("jumped").inc(usage.jumped)
        self.tokens.labels("speculated").inc(usage.speculated)

    def text(self, runtime_stats: dict[str, object]) -> bytes:
        """The page Prometheus reads; `runtime_stats` are the runtime's numbers, {} when it does not answer."""
        self._runtime.stats = runtime_stats
        return generate_latest(self.registry)
