"""Spans of requests, made when they have ended: nothing is measured twice, nothing is in the way.

Knows no prompt and no output. The library is an extra (`inferplane[otel]`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from inferplane.errors import ConfigError
from inferplane.server import trace_names as names
from inferplane.server.front_door import Ended

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

__all__ = ["Generated", "Tracing"]

_SCOPE = "inferplane"
_QUIET = frozenset(("/livez", "/readyz", "/startupz", "/health", "/metrics"))


@dataclass(frozen=True, slots=True)
class Generated:
    """What one request had generated; times are the first choice's, on the monotonic clock."""

    model: str
    began: float
    queue_s: float
    prefill_s: float
    first_s: float | None
    last_s: float
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    finish: tuple[str, ...]


class Tracing:
    """Tells ended requests to OpenTelemetry."""

    def __init__(self, tracers: TracerProvider, meters: MeterProvider) -> None:
        self._providers = tracers, meters
        self._tracer = tracers.get_tracer(_SCOPE, version("inferplane"))
        meter = meters.get_meter(_SCOPE, version("inferplane"))
        self._duration = meter.create_histogram(names.DURATION, "s", "Request to end of answer.")
        self._first = meter.create_histogram(names.FIRST_TOKEN, "s", "Request to first token.")
        self._each = meter.create_histogram(names.PER_TOKEN, "s", "Each token after the first.")

    @classmethod
    def to(cls, endpoint: str) -> Tracing:
        """One that sends to a collector (OTLP over HTTP) at this base URL, in threads of its own.

        Raises ConfigError when the extra is not installed.
        """
        try:  # an extra, and slow to import
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.metrics import MeterProvider
            from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise ConfigError(
                f"otlp endpoint {endpoint}: {error.name} is not installed: "
                "pip install 'inferplane[otel]'"
            ) from None
        base = endpoint.rstrip("/")
        resource = Resource.create({"service.name": _SCOPE, "service.version": version(_SCOPE)})
        tracers = TracerProvider(resource=resource)
        tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{base}/v1/traces")))
        reader = PeriodicExportingMetricReader(OTLPMetricExporter(f"{base}/v1/metrics"))
        return cls(tracers, MeterProvider([reader], resource=resource))

    def note(self, request: Ended) -> None:
        """Spans and figures of an ended request; probes and scrapes have none."""
        if request.route in _QUIET:
            return
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        end_ns, end = time.time_ns(), time.monotonic()
        clock = _Clock(end_ns, end)
        operation = names.OPERATIONS.get(request.route, "")
        generated = request.generated
        span = self._tracer.start_span(
            f"{request.method} {request.route}",
            _parent(request.trace),
            SpanKind.SERVER,
            {
                names.HTTP_METHOD: request.method,
                names.HTTP_ROUTE: request.route,
                names.HTTP_STATUS: request.status,
                names.REQUEST_ID: request.request_id,
            },
            start_time=clock.ns(end - request.seconds),
        )
        if request.code:
            span.set_attribute(names.ERROR_TYPE, request.code)
        if request.status >= 500:
            span.set_status(Status(StatusCode.ERROR, request.code))
        if isinstance(generated, Generated):
            about = _about(operation, generated)
            span.set_attributes(about | _counts(generated))
            self._phases(set_span_in_context(span), generated, about, clock)
            self._measure(request, generated, about)
        span.end(end_ns)

    def _phases(
        self, inside: Context, generated: Generated, about: Mapping[str, str], clock: _Clock
    ) -> None:
        if generated.first_s is None:
            return
        prefill = generated.first_s - generated.prefill_s
        times = (
            (names.QUEUE, prefill - generated.queue_s, prefill),
            (names.PREFILL, prefill, generated.first_s),
            (names.DECODE, generated.first_s, generated.last_s),
        )
        for name, start, end in times:
            span: Span = self._tracer.start_span(
                name, inside, attributes=dict(about), start_time=clock.ns(start)
            )
            span.end(clock.ns(end))

    def _measure(self, request: Ended, generated: Generated, about: Mapping[str, str]) -> None:
        told: dict[str, Any] = dict(about)
        if request.code:
            told[names.ERROR_TYPE] = request.code
        self._duration.record(request.seconds, told)
        if generated.first_s is None:
            return
        self._first.record(generated.first_s - generated.began, told)
        if generated.output_tokens > 1:
            each = (generated.last_s - generated.first_s) / (generated.output_tokens - 1)
            self._each.record(each, told)

    def close(self) -> None:
        """Send what waits. Blocks until it is sent or the exporter gives up."""
        for provider in self._providers:
            provider.shutdown()


@dataclass(frozen=True, slots=True)
class _Clock:
    """Moments of the monotonic clock as times of day."""

    now_ns: int
    now: float

    def ns(self, moment: float) -> int:
        """Nanoseconds since 1970."""
        return self.now_ns - round((self.now - moment) * 1e9)


def _parent(trace: Mapping[str, str]) -> Context | None:
    """The caller's span, by its W3C headers."""
    if not trace:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract(dict(trace))


def _about(operation: str, generated: Generated) -> dict[str, str]:
    return {
        names.OPERATION: operation or "chat",
        names.PROVIDER: _SCOPE,
        names.MODEL: generated.model,
        names.SERVED_MODEL: generated.model,
    }


def _counts(generated: Generated) -> dict[str, Any]:
    return {
        names.INPUT_TOKENS: generated.input_tokens,
        names.CACHED_TOKENS: generated.cached_tokens,
        names.OUTPUT_TOKENS: generated.output_tokens,
        names.FINISH_REASONS: list(generated.finish),
    }
