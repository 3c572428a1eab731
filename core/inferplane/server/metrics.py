"""Metrics of one server: its own measurements, and the engine's counters as it last told them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from inferplane.engine.messages import EngineInfo, EngineStats
from inferplane.server.metric_aliases import WithAliases
from inferplane.server.metric_names import METRICS

__all__ = ["Metrics"]

_PREFIX = "inferplane_"
_LABELS = ("model", "engine")
_RATE_SAMPLES = 10
"""Reports, a second apart, over which the rate of ends is taken."""


class Metrics:
    """Measured here: histograms and HTTP counters. Told by the engine: `engine_stats`."""

    def __init__(self, model: str, engine: str = "0", *, aliases: bool = False) -> None:
        """`aliases`: figures are also told under the names of vLLM."""
        self.identity = (model, engine)
        self.aliases = aliases
        self.registry = CollectorRegistry(auto_describe=False)
        self.engine_stats = EngineStats()
        self._ends = deque([(time.monotonic(), 0)], maxlen=_RATE_SAMPLES)
        self.engine_info: EngineInfo | None = None
        self.time_to_first_token = self._histogram("time_to_first_token_seconds")
        self.inter_token_latency = self._histogram("inter_token_latency_seconds")
        self.request_seconds = self._histogram("request_seconds")
        self.queue_seconds = self._histogram("queue_seconds")
        self.prefill_seconds = self._histogram("prefill_seconds")
        self.decode_seconds = self._histogram("decode_seconds")
        self.inference_seconds = self._histogram("inference_seconds")
        self.prompt_tokens = self._histogram("request_prompt_tokens")
        self.generation_tokens = self._histogram("request_generation_tokens")
        self.request_n = self._histogram("request_n")
        self.request_max_tokens = self._histogram("request_max_tokens")
        self.step_tokens = self._histogram("step_tokens")
        self.media_seconds = self._histogram("media_seconds")
        self.ready = self._gauge("ready")
        self._http_requests = self._labelled_counter("http_requests")
        self._http_seconds = self._labelled_histogram("http_request_seconds")
        self._media_items = self._labelled_counter("media_items")
        self._warnings = self._labelled_counter("warnings")
        self._connections_refused = self._labelled_counter("connections_refused")
        self._auth_failures = self._labelled_counter("auth_failures")
        self.registry.register(_EngineCollector(self))

    def _histogram(self, name: str) -> Histogram:
        return self._labelled_histogram(name).labels(*self.identity)

    def _labelled_histogram(self, name: str) -> Histogram:
        row = METRICS[name]
        labels = (*_LABELS, *row.labels)
        return Histogram(
            _PREFIX + name, row.help, labels, buckets=row.buckets, registry=self.registry
        )

    def _gauge(self, name: str) -> Gauge:
        made = Gauge(_PREFIX + name, METRICS[name].help, _LABELS, registry=self.registry)
        return made.labels(*self.identity)

    def _labelled_counter(self, name: str) -> Counter:
        row = METRICS[name]
        return Counter(_PREFIX + name, row.help, (*_LABELS, *row.labels), registry=self.registry)

    def note_answer(self, method: str, route: str, status: int, seconds: float) -> None:
        """One HTTP answer has ended."""
        known = method if method in _METHODS else "other"
        self._http_requests.labels(*self.identity, known, route, str(status)).inc()
        self._http_seconds.labels(*self.identity, known, route).observe(seconds)

    def note_warning(self, code: str) -> None:
        """A field was accepted but not quite obeyed."""
        self._warnings.labels(*self.identity, code).inc()

    def note_picture(self, result: str) -> None:
        """A picture of a request was `read` or `refused`."""
        self._media_items.labels(*self.identity, result).inc()

    def note_refused_connection(self, reason: str) -> None:
        """The guard ended a connection."""
        self._connections_refused.labels(*self.identity, reason).inc()

    def note_auth_failure(self) -> None:
        """A request came without a good key."""
        self._auth_failures.labels(*self.identity).inc()

    def take(self, stats: EngineStats) -> None:
        """New figures from the engine; each sample of a histogram comes once."""
        self.engine_stats = stats
        self._ends.append((time.monotonic(), sum(stats.finished.values())))
        for tokens in stats.step_tokens:
            self.step_tokens.observe(tokens)

    def queue_wait_s(self) -> float | None:
        """How long the queue takes to empty at the rate requests ended of late; None = unknown."""
        (began, first), (now, last) = self._ends[0], self._ends[-1]
        if last <= first or now <= began:
            return None
        return self.engine_stats.waiting * (now - began) / (last - first)

    def render(self) -> bytes:
        """The text format of Prometheus."""
        return generate_latest(WithAliases(self.registry) if self.aliases else self.registry)


_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"))


class _EngineCollector(Collector):
    """Shows the engine's figures whenever somebody scrapes."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics

    def collect(self) -> Iterable[Metric]:
        stats = self.metrics.engine_stats
        yield from self._gauges(stats)
        yield from self._counters(stats)
        info = self.metrics.engine_info
        if info is not None:
            yield from self._of_start(info)

    def _gauges(self, stats: EngineStats) -> Iterable[Metric]:
        used = stats.blocks_total - stats.blocks_free
        waste = stats.slots_allocated - stats.slots_used
        padding = stats.padded_tokens - stats.real_tokens
        yield self._gauge("requests_running", stats.running)
        yield self._gauge("requests_waiting", stats.waiting)
        yield self._family("requests_waiting_by_reason", stats.waiting_by_reason)
        yield self._gauge("kv_cache_usage_ratio", _share(used, stats.blocks_total))
        yield self._gauge("kv_cache_waste_ratio", _share(waste, stats.slots_allocated))
        yield self._gauge("bucket_padding_ratio", _share(padding, stats.padded_tokens))
        yield self._gauge("last_step_age_seconds", stats.last_step_age_s)

    def _counters(self, stats: EngineStats) -> Iterable[Metric]:
        plain = {
            "prompt_tokens": stats.prompt_tokens,
            "prompt_tokens_cached": stats.prompt_tokens_cached,
            "generation_tokens": stats.generation_tokens,
            "preemptions": stats.preemptions,
            "prefix_cache_queried_tokens": stats.prefix_queried_tokens,
            "prefix_cache_hit_tokens": stats.prefix_hit_tokens,
            "steps": stats.steps,
            "spec_drafts": stats.drafts,
            "spec_draft_tokens": stats.draft_tokens,
            "spec_accepted_tokens": stats.accepted_tokens,
            "compiles_after_ready": stats.compiles_after_start,
        }
        for name, value in plain.items():
            family = CounterMetricFamily(_PREFIX + name, METRICS[name].help, labels=_LABELS)
            family.add_metric(self.metrics.identity, value)
            yield family
        yield self._family("requests_finished", stats.finished)
        yield self._family("admission_rejections", stats.rejected)
        yield self._family("plugin_fallbacks", stats.fallbacks)

    def _of_start(self, info: EngineInfo) -> Iterable[Metric]:
        yield self._family("startup_phase_seconds", info.phase_seconds)
        shape = InfoMetricFamily(
            _PREFIX + "cache_config", METRICS["cache_config"].help, labels=_LABELS
        )
        values = {"block_size": str(info.block_size), "num_blocks": str(info.num_blocks)}
        shape.add_metric(self.metrics.identity, values)
        yield shape

    def _gauge(self, name: str, value: float) -> Metric:
        family = GaugeMetricFamily(_PREFIX + name, METRICS[name].help, labels=_LABELS)
        family.add_metric(self.metrics.identity, value)
        return family

    def _family(self, name: str, values: Mapping[str, float]) -> Metric:
        row = METRICS[name]
        made = CounterMetricFamily if row.type == "counter" else GaugeMetricFamily
        family = made(_PREFIX + name, row.help, labels=(*_LABELS, *row.labels))
        for label, value in values.items():
            family.add_metric((*self.metrics.identity, label), value)
        return family


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
