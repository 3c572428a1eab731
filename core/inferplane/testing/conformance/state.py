"""What the kit keeps for one pytest session: subjects, models and started executors, each once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from inferplane.execution.build import create_executor
from inferplane.interfaces import Executor, KVPlan, ShapePolicy
from inferplane.launch import LaunchPlan
from inferplane.testing.conformance.driver import Driver
from inferplane.testing.conformance.subject import Subject, find_subject
from inferplane.testing.fresh_interpreter import Imported, imports_of
from inferplane.testing.tiny import write_tiny_model

if TYPE_CHECKING:
    from inferplane.testing.conformance.parts import Parts

__all__ = ["KitState", "Started"]

MAX_BLOCKS = 192
"""Blocks of a test's KV cache: whatever a device offers, tests need few."""


@dataclass
class Started:
    """An executor that has run its warm-up, with what it was started for."""

    executor: Executor
    plan: LaunchPlan
    kv: KVPlan
    model: Path
    policy: ShapePolicy
    driver: Driver | None = None
    """The last one handed out."""

    def new_driver(self) -> Driver:
        """A driver that owns every lane and block; lanes the last one left behind are released."""
        old, config = self.driver, self.plan.config
        self.driver = Driver(
            self.executor,
            self.kv,
            self.plan.caps,
            self.policy,
            config.max_num_seqs,
            config.max_batched_tokens,
            self.plan.model.vocab_size,
        )
        if old is not None:
            self.driver.take_over(old)
        return self.driver


class KitState:
    """Made once a session by the pytest plugin and closed at its end."""

    def __init__(
        self,
        folder: Path,
        allowed: Sequence[str] | None,
        quick: bool,
        options: Mapping[str, str] | None = None,
    ) -> None:
        """`options`: values for the platforms' own settings, unless a test file gives others."""
        self._folder = folder
        self._allowed = allowed
        self._quick = quick
        self._options = options or {}
        self._environment = dict(os.environ)  # before any plugin under test is imported
        self._subjects: dict[str, Subject] = {}
        self._imports: dict[str, dict[str, Imported]] = {}
        self._parts: dict[str, Parts] = {}
        self._models: dict[str, Path] = {}
        self._started: dict[tuple[str, str, str], Started] = {}

    def subject(
        self, device: str, options: Mapping[str, str] | None = None, quick: bool = False
    ) -> Subject:
        """The device of that name. Raises ConfigError."""
        if device not in self._subjects:
            given = {**self._options, **(options or {})}
            quick = quick or self._quick
            self._subjects[device] = find_subject(device, self._allowed, quick, given)
        return self._subjects[device]

    def light_modules(self, subject: Subject) -> dict[str, Imported]:
        """What importing the entry module and the platform's, then probing, did to a process."""
        if subject.device not in self._imports:
            modules = [subject.owner.source.module, subject.entry.target.partition(":")[0]]
            self._imports[subject.device] = imports_of(
                modules, subject.entry.target, self._environment
            )
        return self._imports[subject.device]

    def model(self, kind: str) -> Path:
        """The folder of a tiny model."""
        if kind not in self._models:
            self._models[kind] = write_tiny_model(self._folder / "models" / kind, kind)
        return self._models[kind]

    def parts(self, subject: Subject) -> Parts:
        """The parts of a wide platform, made for a tiny model."""
        from inferplane.testing.conformance.parts import Parts  # torch: only for wide devices

        if subject.device not in self._parts:
            plan = subject.plan(self.model("llama"))
            context = subject.context(plan, self.folder("cache"))
            self._parts[subject.device] = Parts.of(subject.platform, context)
        return self._parts[subject.device]

    def started(self, subject: Subject, kind: str = "llama", **settings: object) -> Started:
        """An executor for a tiny model, loaded and warmed up. Raises ConfigError, DeviceError."""
        key = (subject.device, kind, repr(sorted(settings.items())))
        if key not in self._started:
            self._started[key] = self.start(subject, self.model(kind), **settings)
        return self._started[key]

    def start(self, subject: Subject, model: Path, **settings: object) -> Started:
        """A new executor, which the caller closes."""
        plan = subject.plan(model, **settings)
        executor = create_executor(plan)
        executor.load(_no_progress)
        kv = executor.plan_kv()
        kv = replace(kv, num_blocks=min(kv.num_blocks, MAX_BLOCKS))
        executor.start(kv, _no_progress)
        policy = subject.platform.shapes(plan.config, plan.caps)
        return Started(executor, plan, kv, model, policy)

    def folder(self, name: str) -> Path:
        """A folder of that name for this session."""
        path = self._folder / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def close(self) -> None:
        """Close every executor."""
        for started in self._started.values():
            started.executor.close()
        self._started.clear()
        for parts in self._parts.values():
            parts.runtime.close()
        self._parts.clear()


def _no_progress(phase: str, done: int, total: int, detail: str) -> None:
    pass
