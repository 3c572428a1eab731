"""The same figures under the names that dashboards and gateways of vLLM know."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from inferplane.server.metric_names import METRICS

__all__ = ["WithAliases"]

_OURS, _THEIRS = "inferplane_", "vllm:"
_NOT_PREFIXED = "http_"
_ENDINGS = {"counter": "_total", "info": "_info"}
_LABELS: Mapping[str, Mapping[str, str]] = {
    "requests_finished": {"reason": "finished_reason"},
    "cache_config": {"num_blocks": "num_gpu_blocks"},
    "http_requests": {"route": "handler", "model": "", "engine": ""},
    "http_request_seconds": {"route": "handler", "model": "", "engine": ""},
}
"""Metric -> label -> its name there; "" = there is none."""


class WithAliases(Collector):
    """A registry's families, each followed by its alias."""

    def __init__(self, registry: Collector) -> None:
        self.registry = registry

    def collect(self) -> Iterable[Metric]:
        for family in self.registry.collect():
            yield family
            yield from _alias(family)


def _alias(family: Metric) -> Iterator[Metric]:
    row = METRICS.get(family.name.removeprefix(_OURS))
    if row is None or not row.alias:
        return
    prefix = "" if row.alias.startswith(_NOT_PREFIXED) else _THEIRS
    name = prefix + row.alias.removesuffix(_ENDINGS.get(row.type, " "))
    renamed = {"model": "model_name", **_LABELS.get(row.name, {})}
    summed: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for sample in family.samples:
        ending = sample.name.removeprefix(family.name)
        if ending == "_created":
            continue
        labels = {renamed.get(k, k): _value(k, v) for k, v in sample.labels.items()}
        labels.pop("", None)
        key = name + ending, tuple(labels.items())
        summed[key] = summed.get(key, 0.0) + sample.value
    made = Metric(name, family.documentation, family.type)
    made.samples = [Sample(one, dict(labels), value) for (one, labels), value in summed.items()]
    yield made


def _value(label: str, value: str) -> str:
    """Statuses are told there by their first digit, as 2xx."""
    return f"{value[:1]}xx" if label == "status" else value
