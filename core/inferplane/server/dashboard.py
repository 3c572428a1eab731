"""A Grafana dashboard of every metric in the table: a panel each, so that none is forgotten."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from inferplane.server.metric_names import METRICS, Metric

__all__ = ["dashboard"]

_ROWS: Mapping[str, tuple[str, ...]] = {
    "Now": (
        "ready",
        "requests_running",
        "requests_waiting",
        "kv_cache_usage_ratio",
        "last_step_age_seconds",
    ),
    "Latency": (
        "time_to_first_token_seconds",
        "inter_token_latency_seconds",
        "request_seconds",
        "queue_seconds",
        "prefill_seconds",
        "decode_seconds",
        "inference_seconds",
    ),
    "Tokens and requests": (
        "prompt_tokens",
        "generation_tokens",
        "requests_finished",
        "request_prompt_tokens",
        "request_generation_tokens",
        "request_n",
        "request_max_tokens",
        "steps",
        "step_tokens",
    ),
    "Cache and speculation": (
        "prompt_tokens_cached",
        "prefix_cache_queried_tokens",
        "prefix_cache_hit_tokens",
        "kv_cache_waste_ratio",
        "cache_config",
        "spec_drafts",
        "spec_draft_tokens",
        "spec_accepted_tokens",
    ),
    "HTTP": (
        "http_requests",
        "http_request_seconds",
        "auth_failures",
        "warnings",
        "connections_refused",
    ),
}
"""Title -> metrics; whatever stands in none comes last."""
_QUANTILES = ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
_WIDTH, _HEIGHT, _COLUMNS = 8, 7, 24
_SOURCE = {"type": "prometheus", "uid": "${source}"}
_CHOSEN = 'model=~"$model",engine=~"$engine"'


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it; data source, model and engine are variables."""
    return {
        "uid": "inferplane",
        "title": "Inferplane",
        "tags": ["inferplane"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_source(), _variable("model"), _variable("engine")]},
        "panels": list(_panels()),
    }


def _source() -> dict[str, Any]:
    return {"name": "source", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _variable(label: str) -> dict[str, Any]:
    return {
        "name": label,
        "type": "query",
        "datasource": _SOURCE,
        "query": f"label_values(inferplane_ready, {label})",
        "includeAll": True,
        "multi": True,
        "refresh": 2,
        "current": {"text": "All", "value": "$__all"},
    }


def _grouped() -> dict[str, list[Metric]]:
    named = {name for names in _ROWS.values() for name in names}
    groups = {title: [METRICS[name] for name in names] for title, names in _ROWS.items()}
    return {**groups, "Engine": [row for name, row in METRICS.items() if name not in named]}


def _panels() -> Iterator[dict[str, Any]]:
    number, top = 0, 0
    for title, rows in _grouped().items():
        number += 1
        place = {"x": 0, "y": top, "w": _COLUMNS, "h": 1}
        yield {"id": number, "type": "row", "title": title, "gridPos": place, "panels": []}
        top += 1
        for index, row in enumerate(rows):
            number += 1
            across = index % (_COLUMNS // _WIDTH) * _WIDTH
            down = top + index // (_COLUMNS // _WIDTH) * _HEIGHT
            place = {"x": across, "y": down, "w": _WIDTH, "h": _HEIGHT}
            yield {"id": number, "gridPos": place, **_panel(row)}
        top += -(-len(rows) * _WIDTH // _COLUMNS) * _HEIGHT


def _panel(row: Metric) -> dict[str, Any]:
    return {
        "type": "table" if row.type == "info" else "timeseries",
        "title": row.name,
        "description": row.help,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": {"unit": _unit(row), "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(65 + n), "expr": expr, "legendFormat": legend, "datasource": _SOURCE}
            for n, (expr, legend) in enumerate(_targets(row))
        ],
    }


def _unit(row: Metric) -> str:
    if row.name.endswith("_ratio"):
        return "percentunit"
    if row.name.endswith("_seconds") and row.type != "counter":
        return "s"
    return "cps" if row.type == "counter" else "short"


def _targets(row: Metric) -> Iterator[tuple[str, str]]:
    """(query, legend) of a metric: rates of counters, quantiles of histograms."""
    name = f"inferplane_{row.name}"
    by = ", ".join(("model", *row.labels))
    legend = " ".join("{{" + label + "}}" for label in row.labels or ("model",))
    if row.type == "counter":
        yield f"sum by ({by}) (rate({name}_total{{{_CHOSEN}}}[$__rate_interval]))", legend
    elif row.type == "gauge":
        yield f"sum by ({by}) ({name}{{{_CHOSEN}}})", legend
    elif row.type == "info":
        yield f"{name}_info{{{_CHOSEN}}}", legend
    else:
        rate = f"sum by (le) (rate({name}_bucket{{{_CHOSEN}}}[$__rate_interval]))"
        for share, told in _QUANTILES:
            yield f"histogram_quantile({share}, {rate})", told
