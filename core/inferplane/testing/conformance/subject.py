"""What the kit checks: one device of one plugin, found and asked through the public interface."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from inferplane.errors import ConfigError
from inferplane.execution.artifact_cache import DiskCache
from inferplane.interfaces import Capabilities, EngineConfig, Platform, Probe, WorkerContext
from inferplane.launch import LaunchPlan, LaunchSettings
from inferplane.planner import make_plan
from inferplane.plugins import LoadedPlugin, Plugins, find_plugins
from inferplane.registry import Entry

__all__ = ["Expectations", "ExpectedFailure", "Subject", "find_subject"]

MAX_FACTOR = 4.0
"""A plugin may widen a tolerance by this much, with a reason."""


@dataclass(frozen=True, slots=True)
class ExpectedFailure:
    """One test that is known to fail on this device, and why."""

    test: str
    """"AttentionConformance::test_window", as a glob over class and function."""
    reason: str


@dataclass(frozen=True, slots=True)
class Expectations:
    """What `conformance.toml` beside a plugin's entry module says."""

    failures: tuple[ExpectedFailure, ...] = ()
    factors: Mapping[str, float] = field(default_factory=dict)
    """Row of the table of tolerances -> by how much it is widened."""

    @classmethod
    def read(cls, path: Path) -> Expectations:
        """From the file, or nothing if there is none. Raises ConfigError for anything unclear."""
        if not path.exists():
            return cls()
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path}: {error}") from error
        failures = []
        for entry in content.get("expected_failures", []):
            test, reason = entry.get("test", ""), entry.get("reason", "").strip()
            if not test or not reason:
                raise ConfigError(f"{path}: an expected failure needs `test` and `reason`: {entry}")
            failures.append(ExpectedFailure(test, reason))
        factors = {}
        for row, entry in content.get("tolerances", {}).items():
            factor, reason = float(entry.get("factor", 0)), entry.get("reason", "").strip()
            if not reason or not 1.0 <= factor <= MAX_FACTOR:
                raise ConfigError(
                    f"{path}: tolerance {row!r} needs a `reason` and a `factor` in "
                    f"1..{MAX_FACTOR:g}, got {entry}"
                )
            factors[row] = factor
        return cls(tuple(failures), factors)


@dataclass(frozen=True)
class Subject:
    """One platform name, among the plugins that were loaded to find it."""

    device: str
    plugins: Plugins
    allowed: tuple[str, ...] | None
    """The plugins that were asked for; None = all that are installed."""
    quick: bool = False
    """A twentieth of the random samples: for the kit's own tests."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Values for the platform's own settings."""

    @cached_property
    def entry(self) -> Entry:
        """The register line of the platform."""
        return self.plugins.catalogue["platforms"].get(self.device)

    @cached_property
    def owner(self) -> LoadedPlugin:
        """The plugin that registered it."""
        return next(p for p in self.plugins.loaded if p.source.name == self.entry.owner)

    @cached_property
    def platform(self) -> Platform:
        """An instance, as the planner makes it."""
        return cast(Platform, self.entry.load()())

    @cached_property
    def probe(self) -> Probe:
        """What it says with an empty environment."""
        return self.platform.probe({})

    @cached_property
    def caps(self) -> Capabilities:
        """What it can do, asked without a model."""
        return self.platform.capabilities(self.probe, None)

    @cached_property
    def expectations(self) -> Expectations:
        """What `conformance.toml` beside the entry module says."""
        spec = find_spec(self.owner.source.module)
        assert spec is not None and spec.origin is not None
        return Expectations.read(Path(spec.origin).with_name("conformance.toml"))

    @property
    def narrow(self) -> bool:
        """Whether the plugin brings its own executor instead of parts for the core's.

        With parts too, its executor is for some models only, and the kit drives the core's.
        """
        kind = type(self.platform)
        has_parts = kind.create_device is not Platform.create_device
        return kind.create_executor is not Platform.create_executor and not has_parts

    @property
    def labels(self) -> tuple[str, ...]:
        """What `on=` values it answers to."""
        return (self.device, *self.caps.labels)

    def entries(self, kind: str) -> list[Entry]:
        """What plugins offer of a kind for this device, its own and other plugins' by label."""
        offered = self.plugins.catalogue[kind]
        return [e for e in offered if e.answers_to(self.labels) and e.owner != "inferplane"]

    def samples(self, full: int) -> int:
        """How many random samples to take where the design says `full`."""
        return max(full // 20, 20) if self.quick else full

    def config(self, model: Path, **settings: object) -> EngineConfig:
        """Small limits, float32 where the device has it, and `settings` on top."""
        dtype = "float32" if "float32" in self.caps.compute_dtypes else "auto"
        base = EngineConfig(
            str(model),
            device=self.device,
            dtype=dtype,
            max_model_len=256,
            max_num_seqs=8,
            max_batched_tokens=96,
            options=self.options,
        )
        return replace(base, **settings)  # type: ignore[arg-type]  # names and types are the caller's

    def plan(self, model: Path, **settings: object) -> LaunchPlan:
        """What the planner decides for this device and model. Raises ConfigError."""
        return make_plan(LaunchSettings(self.config(model, **settings), plugins=self.allowed))

    def context(self, plan: LaunchPlan, cache: Path) -> WorkerContext:
        """What a worker's parts may read under this plan."""
        shapes = self.platform.shapes(plan.config, plan.caps)
        return WorkerContext(plan.config, plan.caps, plan.model, shapes, DiskCache(cache))


def find_subject(
    device: str,
    allowed: Sequence[str] | None = None,
    quick: bool = False,
    options: Mapping[str, str] | None = None,
) -> Subject:
    """The device of that name. Raises ConfigError saying why there is none, with the traceback."""
    plugins = Plugins(find_plugins(allowed))
    registry = plugins.catalogue["platforms"]
    if device not in registry.names():
        known = ", ".join(registry.names()) or "none"
        broken = "".join(f"\n{name}: {p.trace}" for name, p in plugins.failed.items())
        raise ConfigError(f"no plugin offers device {device!r} (known: {known}){broken}")
    named = None if allowed is None else tuple(allowed)
    return Subject(device, plugins, named, quick, options or {})
