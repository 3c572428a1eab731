"""Facts a platform states and settings it may read; defaults describe the most limited device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "Capabilities",
    "Change",
    "EngineConfig",
    "MemoryReport",
    "ModelShape",
    "Probe",
    "SamplerCaps",
    "SamplingParam",
    "SchedulerLimits",
    "Topology",
]


@dataclass(frozen=True, slots=True)
class Probe:
    """What a platform found; filled in also when the answer is no."""

    ok: bool
    reason: str
    """Shown to the user: "driver 7.2, 2 devices" or "no driver found"."""
    score: int = 0
    """Automatic choice takes the highest: 10 host processor, 50 accelerator."""
    device_count: int = 0
    arch: str = ""
    """The vendor's own word for the generation."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Driver, SDK, torch, …: for `inferplane doctor`."""


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """What a back-end cannot do, as data, so that nobody subclasses the scheduler."""

    max_prefill_seqs: int | None = 1
    """Prefilling sequences in one step; None = no limit."""
    mix_prefill_decode: bool = False
    chunked_prefill: bool = False
    chunk_multiple: int = 1
    """Every chunk but the last is a multiple of it."""
    max_num_seqs: int | None = None
    """The minimum with the configuration holds."""
    max_step_tokens: int | None = None
    max_drafts: int = 0
    """Draft tokens per sequence and step; 0 = no speculation."""
    async_steps: int = 0
    """1 = the next step is enqueued before this one's tokens are on the host."""
    preemption: Literal["recompute", "none"] = "recompute"
    """none: admission reserves the worst case."""
    prefix_cache: bool = False
    prefer_low_block_ids: bool = False


SamplingParam = Literal[
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "seed",
    "logprobs",
    "prompt_logprobs",
    "penalties",
    "bias",
    "bitmask",
]


@dataclass(frozen=True, slots=True)
class SamplerCaps:
    """What the device's sampler obeys by itself."""

    params: tuple[SamplingParam, ...] = ("temperature", "top_k", "top_p")
    max_top_k: int | None = None
    max_logprobs: int = 0
    host_rows: bool = True
    """It can hand the logits of chosen rows to the core's host sampler."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What one platform can do with one model."""

    labels: tuple[str, ...] = ()
    """`on=` values it answers to besides its own name: `("triton",)`."""
    compute_dtypes: tuple[str, ...] = ("float32",)
    """Preferred first."""
    kv_dtypes: tuple[str, ...] = ("auto",)
    """Preferred first."""
    kv_layouts: tuple[str, ...] = ("nhd",)
    """What its KVStore can lay out, preferred first; the core only compares the strings."""
    fp8: Literal["none", "e4m3fn", "e4m3fnuz", "range240"] = "none"
    block_multiple: int = 16
    """KV block sizes are multiples of this and of the chosen backend's."""
    static_shapes: bool = False
    """True: every step must fit a bucket; running eagerly is not possible."""
    limits: SchedulerLimits = SchedulerLimits()
    sampler: SamplerCaps = SamplerCaps()
    sleep: bool = False
    """`Executor.sleep` and `Allocator.release` work."""
    prefer: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """"attention" or an op -> names or owners, best first."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Its own settings: name -> help; others are refused."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """config.json in numbers, read without torch."""

    architecture: str
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_position: int
    dtype: str
    quantization: str = ""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The settings plugins may read, filled by `config.py` from flags, environment and file."""

    model: str
    """Local folder or file of the model."""
    device: str = "auto"
    dtype: str = "auto"
    kv_dtype: str = "auto"
    quantization: str = "auto"
    """"auto" = as the checkpoint is, "none" = GGUF blocks dequantised, else made while loading."""
    attention: str = "auto"
    tensor_parallel: int = 1
    max_model_len: int = 4096
    max_num_seqs: int = 128
    max_batched_tokens: int = 2048
    block_size: int = 0
    """Tokens per KV block; 0 = the least common multiple of what the parts need."""
    memory_fraction: float = 0.9
    fallback: Literal["reference", "error"] = "reference"
    kernels: Mapping[str, str] = field(default_factory=dict)
    """op -> owner the user chose."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Values for `Capabilities.options`."""


@dataclass(frozen=True, slots=True)
class Change:
    """One edit of EngineConfig with its reason, printed at start."""

    key: str
    value: str | int | float | bool
    reason: str


@dataclass(frozen=True, slots=True)
class Topology:
    """How many processes run the model, and where.

    The core shards over processes, the plugin inside one. `placement` is "worker" (one process a
    rank) or "inline" (inside the engine process; single rank only).
    """

    processes: int = 1
    devices_per_process: int = 1
    placement: Literal["worker", "inline"] = "worker"


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """Bytes of device memory; 0 = unknown."""

    total: int
    free: int
    reserved: int = 0
    """Kept back for graphs."""
    shared_with_host: bool = False
