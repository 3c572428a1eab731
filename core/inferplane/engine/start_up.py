"""From a plan to an engine that steps: load, plan the KV cache, warm up."""

from __future__ import annotations

import time
from dataclasses import dataclass

from inferplane.engine.capacity import fit_context
from inferplane.engine.engine import Engine
from inferplane.engine.placement import make_shapes
from inferplane.interfaces import Executor, KVPlan, Progress, ShapePolicy
from inferplane.launch import LaunchPlan

__all__ = ["Started", "start_engine"]


@dataclass(frozen=True, slots=True)
class Started:
    """An engine and what it was made of."""

    engine: Engine
    launch: LaunchPlan
    """With the context that fits."""
    kv: KVPlan
    shapes: ShapePolicy


def start_engine(
    executor: Executor, launch: LaunchPlan, progress: Progress, hash_root: bytes
) -> Started:
    """Take the executor through its start. Raises ConfigError, CapacityError and DeviceError.

    `hash_root` makes digests of cached prefixes unpredictable; processes that share KV share it.
    """
    progress("load", 0, 0, "")
    executor.load(progress)
    progress("profile", 0, 0, "")
    kv = executor.plan_kv()
    launch = fit_context(launch, kv)
    progress("warm_up", 0, 0, "")
    executor.start(kv, progress)
    shapes = make_shapes(launch)
    engine = Engine(executor, kv, launch, shapes, time.monotonic, hash_root)
    return Started(engine, launch, kv, shapes)
