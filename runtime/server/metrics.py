"""Numbers for Prometheus: what the gateway sees of requests, and what the runtime says of itself when asked."""

from bisect import bisect_left
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
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


class Durations(Collector):
    """A histogram of seconds; one observation costs a tenth of prometheus_client's, as it is made for each token.

    Only the event loop's thread may observe.
    """

    def __init__(self, name: str, help_text: str, registry: CollectorRegistry) -> None:
        self._name = name
        self._help = help_text
        self._counts = [0] * (len(_SECONDS) + 1)
        self._sum = 0.0
        registry.register(self)

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[bisect_left(_SECONDS, seconds)] += 1
        self._sum += seconds

    def counted(self) -> dict[str, list[float] | list[int]]:
        """What was counted so far: `counts[i]` durations up to `bounds[i]` seconds, and a last count beyond them."""
        return {"bounds": list(_SECONDS), "counts": list(self._counts)}

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The histogram, its buckets cumulative."""
        buckets, total = [], 0
        for bound, count in zip((*map(str, _SECONDS), "+Inf"), self._counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        yield HistogramMetricFamily(self._name, self._help, buckets=buckets, sum_value=self._sum)


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
        self.first_token = Durations(
            "branchwork_first_token_seconds", "from a request's arrival to its first token", own
        )
        self.between_tokens = Durations(
            "branchwork_between_tokens_seconds", "between two pieces of a stream", own
        )
        self.whole = Durations(
            "branchwork_request_seconds", "from a request's arrival to its end", own
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

    def durations(self) -> dict[str, dict[str, list[float] | list[int]]]:
        """The histograms as plain values; two looks at them give the durations in between."""
        return {
            "first_token": self.first_token.counted(),
            "between_tokens": self.between_tokens.counted(),
            "request": self.whole.counted(),
        }

    def text(self, runtime_stats: dict[str, object]) -> bytes:
        """The page Prometheus reads; `runtime_stats` are the runtime's numbers, {} when it does not answer."""
        self._runtime.stats = runtime_stats
        return generate_latest(self.registry)
