"""Where the executor runs: in this process, or in one worker process per rank."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from inferplane.engine.watchdog import Patience
from inferplane.engine.workers import WorkerExecutor
from inferplane.interfaces import Executor, ShapePolicy
from inferplane.launch import LaunchPlan

__all__ = ["make_executor", "make_shapes"]

_BUILD = "inferplane.execution.build:create_executor"
"""By name: the engine's own code never loads torch."""


def make_executor(plan: LaunchPlan, environment: Mapping[str, str]) -> Executor:
    """The executor the plan's topology asks for, nothing loaded yet."""
    if plan.topology.placement == "worker":
        return WorkerExecutor(plan, environment, Patience())
    module, _, attribute = _BUILD.partition(":")
    executor: Executor = getattr(import_module(module), attribute)(plan)
    return executor


def make_shapes(plan: LaunchPlan) -> ShapePolicy:
    """The platform's own opinion of which steps fit; the scheduler asks it."""
    platform = plan.catalogue()["platforms"].get(plan.device).load()()
    shapes: ShapePolicy = platform.shapes(plan.config, plan.caps)
    return shapes
