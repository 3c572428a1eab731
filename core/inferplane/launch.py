"""The LaunchPlan: everything decided before a device is touched, as plain data.

The planner child makes it; API process, engine and workers know nothing else and discover nothing
again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from inferplane.interfaces import Capabilities, Change, EngineConfig, ModelShape, Probe, Topology
from inferplane.registry import Catalogue, Entry
from inferplane.speech_config import SpeechConfig

__all__ = ["DeviceReport", "LaunchPlan", "LaunchSettings", "SchedulerConfig"]


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """One platform as the planner saw it."""

    name: str
    plugin: str
    probe: Probe | None
    error: str = ""
    """Why the plugin or its probe failed; "" = it answered."""


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Settings of the scheduler that no plugin reads (docs/configuration.md)."""

    policy: str = "fcfs"
    """"fcfs" or "priority"."""
    max_active_seqs: int | None = None
    """Cap on admitted requests, without lowering max_num_seqs."""
    long_prefill_threshold: int = 0
    """Tokens of one prefill chunk when the request has company; 0 = off."""
    adaptive_prefill: bool = False
    """The threshold is never below an equal share of max_batched_tokens."""
    chunked_prefill: bool = True
    prefix_cache: bool = True
    reserve_whole_prompt: bool = True
    watermark: float = 0.0
    """Share of blocks kept free when admitting while something runs."""
    prefill_interval: int = 1
    max_waiting: int = 0
    """Most queued requests; 0 = 4 x max_num_seqs."""
    max_waiting_tokens: int = 0
    """Most tokens of all queued requests together; 0 = no limit."""
    max_overtakes: int = 0
    """How many later requests may start before one that does not fit; 0 = strict order."""
    queue_timeout_s: float = 60.0
    """0 = wait for ever."""
    adopt_pending: bool = True
    num_drafts: int = 0
    """n-gram draft tokens per step; 0 = no speculation."""


@dataclass(frozen=True, slots=True)
class LaunchSettings:
    """What the user asked for, before any plugin was heard."""

    config: EngineConfig
    scheduler: SchedulerConfig = SchedulerConfig()
    plugins: tuple[str, ...] | None = None
    """Exactly these plugins; None = all that are installed."""
    without: tuple[str, ...] = ()
    """Plugins left out."""
    trace_plugins: bool = False
    """Print each call of a plugin's hook with its answer and time."""
    model_impl: Literal["auto", "transformers"] = "auto"
    load_format: Literal["auto", "dummy"] = "auto"
    seed: int = 0
    """Of dummy weights."""
    task: str = "auto"
    """generate, embed, score, classify or transcribe; "auto" = what the model is made for."""


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """What runs where, decided."""

    device: str
    plugin: str
    plugin_version: str
    probe: Probe
    config: EngineConfig
    """After `Platform.resolve`."""
    scheduler: SchedulerConfig
    caps: Capabilities
    model: ModelShape
    topology: Topology
    worker_env: tuple[Mapping[str, str], ...] = ()
    """One for each process."""
    changes: tuple[Change, ...] = ()
    devices: tuple[DeviceReport, ...] = ()
    """Every candidate, for the banner and doctor."""
    lines: tuple[tuple[str, Entry], ...] = ()
    """Register lines of every loaded plugin."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Plugin -> why it did not load."""
    model_impl: Literal["auto", "transformers"] = "auto"
    """"auto" = a registered model before the transformers library's class."""
    load_format: Literal["auto", "dummy"] = "auto"
    """"auto" reads the model's files, "dummy" makes weights up."""
    seed: int = 0
    """Of dummy weights."""
    weight_bytes: int = 0
    """Of the model's files; 0 = made up."""
    fit_context: bool = False
    """The user left max_model_len to us: it may shrink to what memory holds."""
    tasks: tuple[str, ...] = ("generate", "embed")
    """What requests may ask of the model, the main task first."""
    keeps_kv: bool = True
    """False: an encoder, which computes a whole text at once and keeps nothing."""
    image_token: int | None = None
    """What stands for a picture's places in a prompt, or a recording's; None = the model takes
    neither."""
    speech: SpeechConfig | None = None
    """None = the model hears nothing."""

    @property
    def generates(self) -> bool:
        """Whether any request draws tokens."""
        return "generate" in self.tasks or "transcribe" in self.tasks

    def catalogue(self) -> Catalogue:
        """The register lines as registries."""
        return Catalogue(self.lines)

    def labels(self) -> tuple[str, ...]:
        """What `on=` values this device answers to."""
        return (self.device, *self.caps.labels)
