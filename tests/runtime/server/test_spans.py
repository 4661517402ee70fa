from typing import Any

import pytest
from tests.runtime.server.fake import Script

from branchwork.runtime.server import spans as spanning
from branchwork.runtime.server.config import ServerConfig
from branchwork.runtime.server.spans import Finished, Spans, open_spans
from branchwork.runtime.wire.errors import ConfigError

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Recorded(Spans):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.finished: list[Finished] = []

    def record(self, request: Finished) -> None:
        self.finished.append(request)


def test_without_an_endpoint_there_are_no_spans(serving: Any) -> None:
    assert open_spans(ServerConfig()) is None
    assert serving().gateway.spans is None


def test_a_request_is_told_with_its_tokens_and_without_its_words(serving: Any) -> None:
    server = serving(Script([b"secret answer"]))
    server.gateway.spans = told = Recorded()
    headers = {"traceparent": PARENT}
    server.post("/v1/completions", {"prompt": "canary", "n": 2}, headers=headers)
    server.post("/v1/completions", {"prompt": "canary", "n": 0})
    good, bad = told.finished
    assert (good.method, good.route, good.status) == ("POST", "/v1/completions", 200)
    assert good.traceparent == PARENT
    assert [usage.completion for usage in good.usages] == [13, 13]
    attributes = spanning._attributes(good)
    assert attributes["gen_ai.usage.output_tokens"] == 26
    assert "canary" not in str(attributes)
    assert "secret" not in str(attributes)
    assert (bad.status, list(bad.usages)) == (400, [])


def test_an_endpoint_without_the_extra_says_what_to_install() -> None:
    try:
        import opentelemetry.sdk.trace  # noqa: F401, PLC0415
    except ImportError:
        with pytest.raises(ConfigError, match="branchwork\\[otel\\]"):
            open_spans(ServerConfig(otel_endpoint="http://localhost:4318/v1/traces"))


def test_spans_go_on_in_the_callers_trace() -> None:
    sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="branchwork[otel] is not installed")
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    provider, exporter = sdk.TracerProvider(), memory.InMemorySpanExporter()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    spans = Spans(provider)
    spans.record(Finished("req_1", "POST", "/v1/completions", 200, 0.0, PARENT, ()))
    spans.record(Finished("req_2", "GET", "other", 404, 0.0, "no trace", ()))
    first, second = exporter.get_finished_spans()
    assert f"{first.parent.trace_id:032x}" == PARENT[3:35]
    assert first.attributes["http.response.status_code"] == 200
    assert first.end_time > first.start_time
    assert second.parent is None
    spans.close()
