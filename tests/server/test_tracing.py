"""Traces: an HTTP span for each request, its phases below it, nothing of what was said."""

import sys
from threading import Semaphore

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from inferplane.errors import ConfigError
from inferplane.server import trace_names as names
from inferplane.server.run import make_server
from inferplane.server.tracing import Tracing

CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "secret"}], "max_tokens": 3, "temperature": 0}
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = {"traceparent": f"00-{TRACE}-{SPAN}-01"}


class Noted(Tracing):
    """Also tells that a request has ended."""

    def __init__(self, *providers):
        super().__init__(*providers)
        self.ended = Semaphore(0)

    def note(self, request):
        super().note(request)
        self.ended.release()


class Seen:
    """A server whose traces are kept in memory."""

    def __init__(self, server):
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        tracers = TracerProvider()
        tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracing = server.context.tracing = Noted(tracers, MeterProvider([self.reader]))
        self.server = server

    def spans(self, method, path, **request):
        """Spans of one request by name; waits until it has ended."""
        self.exporter.clear()
        with self.server.client() as client:
            client.request(method, path, **request)
        self.tracing.ended.acquire()
        return {span.name: span for span in self.exporter.get_finished_spans()}

    def figures(self):
        """Instrument -> points."""
        (resource,) = self.reader.get_metrics_data().resource_metrics
        (scope,) = resource.scope_metrics
        return {metric.name: metric.data.data_points for metric in scope.metrics}


@pytest.fixture(scope="module")
def seen(start):
    server = start(options={"step_ms": "5"})
    server.wait_ready()
    return Seen(server)


@pytest.mark.parametrize("stream", [False, True])
def test_phases_lie_in_their_order_within_the_http_span(seen, stream):
    spans = seen.spans("POST", CHAT, json=BODY | {"stream": stream})
    http = spans[f"POST {CHAT}"]
    assert http.kind.name == "SERVER" and http.parent is None
    assert http.attributes[names.HTTP_STATUS] == 200
    assert http.attributes[names.OPERATION] == "chat"
    assert http.attributes[names.MODEL] == "tiny"
    assert http.attributes[names.OUTPUT_TOKENS] == 3
    assert http.attributes[names.FINISH_REASONS] == ("length",)
    phases = [spans[name] for name in (names.QUEUE, names.PREFILL, names.DECODE)]
    moments = [http.start_time, phases[0].start_time]
    for phase in phases:
        assert phase.parent.span_id == http.context.span_id
        moments += [phase.start_time, phase.end_time]
    assert moments == sorted(moments) and phases[-1].end_time <= http.end_time
    assert phases[0].start_time < http.end_time
    told = "".join(span.to_json() for span in spans.values())
    assert "secret" not in told


def test_the_callers_span_is_the_parent(seen):
    http = seen.spans("POST", CHAT, json=BODY, headers=PARENT)[f"POST {CHAT}"]
    assert f"{http.context.trace_id:032x}" == TRACE
    assert f"{http.parent.span_id:016x}" == SPAN
    broken = {"traceparent": "00-nothing-like-it-01"}
    assert seen.spans("POST", CHAT, json=BODY, headers=broken)[f"POST {CHAT}"].parent is None


def test_refused_requests_have_a_span_with_their_code_and_probes_have_none(seen):
    spans = seen.spans("POST", CHAT, json={"messages": []})
    assert list(spans) == [f"POST {CHAT}"]
    assert spans[f"POST {CHAT}"].attributes[names.ERROR_TYPE] == "out_of_range"
    assert seen.spans("GET", "/livez") == {} and seen.spans("GET", "/metrics") == {}
    (unknown,) = seen.spans("GET", "/nothing/at/all").values()
    assert unknown.name == "GET unmatched"


def test_the_three_durations_are_measured(seen):
    seen.spans("POST", CHAT, json=BODY)
    figures = seen.figures()
    assert set(figures) == {names.DURATION, names.FIRST_TOKEN, names.PER_TOKEN}
    for points in figures.values():
        assert sum(point.count for point in points) >= 1 and all(p.sum > 0 for p in points)
    (first,) = figures[names.FIRST_TOKEN]
    (whole,) = figures[names.DURATION]
    assert whole.sum > first.sum


def test_without_the_extra_the_endpoint_is_refused_with_the_command(settings_for, monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.metric_exporter", None)
    with pytest.raises(ConfigError, match=r"inferplane\[otel\]"):
        make_server(settings_for(otlp_endpoint="http://127.0.0.1:1"), None)
