"""An engine on the null device: its plan, without any file, and the engine in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from inferplane.engine.engine import Engine
from inferplane.engine.grammars import Grammars
from inferplane.interfaces import Change, EngineConfig, ModelShape, ShapePolicy
from inferplane.launch import LaunchPlan, SchedulerConfig
from inferplane.registry import Entry
from inferplane.request import Request
from inferplane.sampling_params import SamplingParams
from inferplane.testing.null import (
    NarrowNullPlatform,
    NullExecutor,
    NullOptions,
    NullPlatform,
    SyncNullPlatform,
)

__all__ = ["NULL_PLATFORMS", "null_engine", "null_plan", "null_request"]

NULL_PLATFORMS: Mapping[str, type[NullPlatform]] = {
    "null": NullPlatform,
    "null_sync": SyncNullPlatform,
    "null_narrow": NarrowNullPlatform,
}


def null_plan(
    device: str = "null",
    *,
    options: Mapping[str, str] | None = None,
    scheduler: SchedulerConfig | None = None,
    vocab_size: int = 1000,
    **config: int,
) -> LaunchPlan:
    """What the planner would decide for a null device and a model of no files.

    `config` are numbers of EngineConfig; its defaults here are small.
    """
    sizes = {"max_model_len": 512, "max_num_seqs": 16, "max_batched_tokens": 64, **config}
    settings = EngineConfig("no model", device, dtype="float32", options=options or {}, **sizes)  # type: ignore[arg-type]
    platform = NULL_PLATFORMS[device]()
    probe = platform.probe({})
    model = ModelShape("Null", 1, 8, 1, 1, 8, vocab_size, 512, "float32")
    caps = platform.capabilities(probe, model)
    lines = tuple(
        ("platforms", Entry(name, f"{kind.__module__}:{kind.__name__}", "null"))
        for name, kind in NULL_PLATFORMS.items()
    )
    return LaunchPlan(
        device=device,
        plugin="null",
        plugin_version="0",
        probe=probe,
        config=settings,
        scheduler=scheduler or SchedulerConfig(),
        caps=caps,
        model=model,
        topology=platform.topology(settings, caps),
        changes=(Change("dtype", "float32", "the model's own"),),
        lines=lines,
        load_format="dummy",
    )


def null_engine(
    plan: LaunchPlan,
    clock: Callable[[], float] = time.monotonic,
    grammars: Grammars | None = None,
) -> tuple[Engine, NullExecutor]:
    """An engine that is ready to step, and its executor to look into."""
    executor = NullExecutor(
        NullOptions.parse(plan.config.options), plan.model.vocab_size, plan.config.max_num_seqs
    )
    executor.load(lambda *_: None)
    kv = executor.plan_kv()
    executor.start(kv, lambda *_: None)
    engine = Engine(executor, kv, plan, ShapePolicy(), clock, b"null", grammars)
    return engine, executor


def null_request(request_id: str, prompt: tuple[int, ...], **sampling: object) -> Request:
    """A request, greedy unless told otherwise; `sampling` are fields of SamplingParams."""
    params = {"temperature": 0.0, "max_tokens": 8, **sampling}
    return Request(
        request_id=request_id,
        prompt_ids=prompt,
        sampling=SamplingParams(**params),  # type: ignore[arg-type]
    )
