"""OpenTelemetry: one span for each request, with its route, its status and its tokens; never a prompt, never a key.

Needs the extra `branchwork[otel]`, and is off unless `--otel-endpoint` says where spans go.
"""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from branchwork.runtime.server.config import ServerConfig
from branchwork.runtime.wire.errors import ConfigError
from branchwork.runtime.wire.messages import Usage


class Finished(NamedTuple):
    """A request that has been answered. `began` is of `time.monotonic`; `usages` are those of its answers."""

    request_id: str
    method: str
    route: str
    status: int
    began: float
    traceparent: str
    usages: Sequence[Usage]


class Spans:
    """Turns finished requests into spans of `provider`; a caller's own trace goes on in them."""

    def __init__(self, provider: Any) -> None:
        # Half a second to import, and not installed unless it is asked for.
        from opentelemetry.trace import SpanKind  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
            TraceContextTextMapPropagator,
        )

        self._provider = provider
        self._tracer = provider.get_tracer("branchwork")
        self._kind = SpanKind.SERVER
        self._extract = TraceContextTextMapPropagator().extract

    def record(self, request: Finished) -> None:
        """One span, from the request's arrival until now; it is sent in the background."""
        end = time.time_ns()
        start = end - int((time.monotonic() - request.began) * 1e9)
        span = self._tracer.start_span(
            f"{request.method} {request.route}",
            context=self._extract({"traceparent": request.traceparent}),
            kind=self._kind,
            start_time=start,
            attributes=_attributes(request),
        )
        span.end(end_time=end)

    def close(self) -> None:
        """Send what waits."""
        self._provider.shutdown()


def _attributes(request: Finished) -> dict[str, str | int | float]:
    found: dict[str, str | int | float] = {
        "http.request.method": request.method,
        "http.route": request.route,
        "http.response.status_code": request.status,
        "branchwork.request_id": request.request_id,
    }
    if request.usages:
        found |= {
            "gen_ai.usage.input_tokens": sum(usage.prompt for usage in request.usages),
            "gen_ai.usage.output_tokens": sum(usage.completion for usage in request.usages),
            "branchwork.tokens.cached": sum(usage.cached for usage in request.usages),
            "branchwork.tokens.jumped": sum(usage.jumped for usage in request.usages),
            "branchwork.queue_ms": max(usage.queue_ms for usage in request.usages),
            "branchwork.first_token_ms": min(usage.first_token_ms for usage in request.usages),
        }
    return found


def open_spans(config: ServerConfig) -> Spans | None:
    """Spans to the configured endpoint, or None. Raises ConfigError where the extra is not installed."""
    if not config.otel_endpoint:
        return None
    try:
        # As above.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError:
        raise ConfigError('--otel-endpoint needs pip install "branchwork[otel]"') from None
    provider = TracerProvider(resource=Resource.create({"service.name": "branchwork"}))
    exporter = OTLPSpanExporter(endpoint=config.otel_endpoint)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Spans(provider)
