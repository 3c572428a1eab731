"""Every metric of the server, in one table: docs, dashboards and aliases are made from it.

Names have the prefix `inferplane_` and the labels `model` and `engine` beside their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["METRICS", "Metric", "Type"]

Type: TypeAlias = Literal["counter", "gauge", "histogram", "info"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_LONG_SECONDS = (*_SECONDS, 300, 600)
_TOKENS = (1, 4, 16, 64, 256, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
_COUNTS = (0, 1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True, slots=True)
class Metric:
    """One row: `name` without prefix; `alias` is what vLLM calls it."""

    name: str
    type: Type
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    alias: str = ""


_ROWS = (
    Metric("requests_running", "gauge", "Sequences in steps.", alias="num_requests_running"),
    Metric("requests_waiting", "gauge", "Sequences queued.", alias="num_requests_waiting"),
    Metric(
        "requests_waiting_by_reason",
        "gauge",
        "Sequences queued, by why.",
        ("reason",),
        alias="num_requests_waiting_by_reason",
    ),
    Metric(
        "kv_cache_usage_ratio", "gauge", "Share of KV blocks in use.", alias="kv_cache_usage_perc"
    ),
    Metric("kv_cache_waste_ratio", "gauge", "Allocated token places that hold no token."),
    Metric(
        "cache_config",
        "info",
        "Shape of the KV cache.",
        ("block_size", "num_blocks"),
        alias="cache_config_info",
    ),
    Metric("prompt_tokens", "counter", "Prompt tokens processed.", alias="prompt_tokens_total"),
    Metric(
        "prompt_tokens_cached",
        "counter",
        "Prompt tokens found in the prefix cache.",
        alias="prompt_tokens_cached_total",
    ),
    Metric("generation_tokens", "counter", "Tokens made.", alias="generation_tokens_total"),
    Metric(
        "requests_finished",
        "counter",
        "Sequences ended, by why.",
        ("reason",),
        alias="request_success_total",
    ),
    Metric("preemptions", "counter", "Sequences put back.", alias="num_preemptions_total"),
    Metric(
        "admission_rejections",
        "counter",
        "Requests refused by the engine.",
        ("reason",),
        alias="admission_rejections_total",
    ),
    Metric(
        "prefix_cache_queried_tokens",
        "counter",
        "Tokens looked up in the prefix cache.",
        alias="prefix_cache_queries_total",
    ),
    Metric(
        "prefix_cache_hit_tokens",
        "counter",
        "Tokens found in the prefix cache.",
        alias="prefix_cache_hits_total",
    ),
    Metric(
        "time_to_first_token_seconds",
        "histogram",
        "Body read to first token.",
        buckets=_SECONDS,
        alias="time_to_first_token_seconds",
    ),
    Metric(
        "inter_token_latency_seconds",
        "histogram",
        "Gap of two output tokens.",
        buckets=_SECONDS[:13],
        alias="inter_token_latency_seconds",
    ),
    Metric(
        "request_seconds",
        "histogram",
        "Body read to last token.",
        buckets=_LONG_SECONDS,
        alias="e2e_request_latency_seconds",
    ),
    Metric(
        "queue_seconds",
        "histogram",
        "Submission to first step.",
        buckets=_LONG_SECONDS,
        alias="request_queue_time_seconds",
    ),
    Metric(
        "prefill_seconds",
        "histogram",
        "First step to first token.",
        buckets=_LONG_SECONDS,
        alias="request_prefill_time_seconds",
    ),
    Metric(
        "decode_seconds",
        "histogram",
        "First to last token.",
        buckets=_LONG_SECONDS,
        alias="request_decode_time_seconds",
    ),
    Metric(
        "inference_seconds",
        "histogram",
        "First step to last token.",
        buckets=_LONG_SECONDS,
        alias="request_inference_time_seconds",
    ),
    Metric(
        "request_prompt_tokens",
        "histogram",
        "Prompt lengths.",
        buckets=_TOKENS,
        alias="request_prompt_tokens",
    ),
    Metric(
        "request_generation_tokens",
        "histogram",
        "Output lengths.",
        buckets=_TOKENS,
        alias="request_generation_tokens",
    ),
    Metric("request_n", "histogram", "Choices asked.", buckets=_COUNTS, alias="request_params_n"),
    Metric(
        "request_max_tokens",
        "histogram",
        "Longest outputs asked.",
        buckets=_TOKENS,
        alias="request_params_max_tokens",
    ),
    Metric(
        "step_tokens",
        "histogram",
        "Tokens of a step.",
        buckets=_TOKENS,
        alias="iteration_tokens_total",
    ),
    Metric("media_items", "counter", "Pictures read, and refused ones.", ("result",)),
    Metric(
        "media_seconds",
        "histogram",
        "Fetching, decoding and preparing a request's pictures.",
        buckets=_SECONDS,
    ),
    Metric("steps", "counter", "Steps run."),
    Metric("spec_drafts", "counter", "Drafts made.", alias="spec_decode_num_drafts_total"),
    Metric(
        "spec_draft_tokens",
        "counter",
        "Tokens drafted.",
        alias="spec_decode_num_draft_tokens_total",
    ),
    Metric(
        "spec_accepted_tokens",
        "counter",
        "Drafted tokens kept.",
        alias="spec_decode_num_accepted_tokens_total",
    ),
    Metric(
        "http_requests",
        "counter",
        "Answers sent.",
        ("method", "route", "status"),
        alias="http_requests_total",
    ),
    Metric(
        "http_request_seconds",
        "histogram",
        "Request to end of answer.",
        ("method", "route"),
        _LONG_SECONDS,
        alias="http_request_duration_seconds",
    ),
    Metric("ready", "gauge", "1 = takes requests."),
    Metric("startup_phase_seconds", "gauge", "How long each phase of start-up took.", ("phase",)),
    Metric("auth_failures", "counter", "Requests without a good key."),
    Metric("warnings", "counter", "Fields accepted but not quite obeyed.", ("code",)),
    Metric("connections_refused", "counter", "Connections ended by a limit.", ("reason",)),
    Metric("plugin_fallbacks", "counter", "Reference ops used for want of a kernel.", ("op",)),
    Metric("compiles_after_ready", "counter", "Shapes compiled while serving."),
    Metric("bucket_padding_ratio", "gauge", "Share of computed tokens that are padding."),
    Metric("last_step_age_seconds", "gauge", "Since the engine's last step began."),
)
METRICS: Mapping[str, Metric] = {row.name: row for row in _ROWS}
