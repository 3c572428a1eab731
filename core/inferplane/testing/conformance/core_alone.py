"""The core without any plugin, in float32: what a real model must agree with. Needs torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from inferplane.execution.torch_executor import TorchExecutor
from inferplane.interfaces import (
    Array,
    ArtifactCache,
    Capabilities,
    ModelShape,
    Platform,
    Probe,
    SchedulerLimits,
    ShapePolicy,
    Topology,
    WorkerContext,
)
from inferplane.launch import LaunchPlan
from inferplane.testing.conformance.driver import Driver, Work

__all__ = ["CoreAlone"]


class _NoParts(Platform):
    """Every part is the core's own."""

    def probe(self, env: Mapping[str, str]) -> Probe:
        """Always there."""
        return Probe(True, "the core alone", device_count=1)

    def capabilities(self, probe: Probe, model: ModelShape | None) -> Capabilities:
        """Everything the core can do by itself."""
        limits = SchedulerLimits(None, True, True)
        return Capabilities(limits=limits)


class CoreAlone:
    """A model on the core's reference ops, attention and KV store."""

    def __init__(self, plan: LaunchPlan, cache: ArtifactCache) -> None:
        """The model of `plan`, without the kernels and backends of any plugin."""
        platform = _NoParts()
        caps = platform.capabilities(plan.probe, None)
        config = replace(
            plan.config, dtype="float32", kv_dtype="auto", attention="auto", options={}
        )
        alone = replace(
            plan,
            config=config,
            caps=caps,
            topology=Topology(1, 1, "inline"),
            lines=tuple(line for line in plan.lines if line[1].owner == "inferplane"),
        )
        context = WorkerContext(config, caps, plan.model, ShapePolicy(), cache)
        executor = TorchExecutor(context, platform, alone)
        executor.load(_silent)
        kv = replace(executor.plan_kv(), num_blocks=32)
        executor.start(kv, _silent)
        self._driver = Driver(
            executor, kv, caps, ShapePolicy(), 1, config.max_batched_tokens, plan.model.vocab_size
        )

    def logits(self, tokens: Sequence[int], num_prompt: int) -> Array:
        """f32[T-num_prompt,V]: after each token from the prompt's last to the last but one."""
        live = self._driver.begin(tokens[:num_prompt])
        rows = []
        for place in range(num_prompt, len(tokens)):
            count = len(live.tokens) - live.computed
            rows.append(self._driver.step([Work(live, count, host=True)])[0].logits)
            live.tokens.append(tokens[place])
        self._driver.end(live)
        return np.stack([np.asarray(row) for row in rows])


def _silent(phase: str, done: int, total: int, detail: str) -> None:
    pass
