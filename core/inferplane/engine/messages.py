"""What crosses the socket between front end and engine: msgpack with a schema, never pickle."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from inferplane.request import FinishReason, Request

__all__ = [
    "Abort",
    "Admitted",
    "Alive",
    "EngineInfo",
    "EngineStats",
    "Failed",
    "FromEngine",
    "GetStats",
    "Outputs",
    "Progressed",
    "Ready",
    "Rejected",
    "ResetPrefixCache",
    "SequenceOutput",
    "Shutdown",
    "Stats",
    "Submit",
    "ToEngine",
    "TokenLogprobs",
]


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Log-probabilities at one position; entry 0 = the token drawn or given, then the best ones."""

    ids: tuple[int, ...]
    values: tuple[float, ...]
    rank: int = 0
    """Rank of entry 0 among all tokens, 1 = most likely; 0 = not asked."""


class SequenceOutput(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """New tokens of one sequence, or its end, or both."""

    request_id: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] | None = None
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
    """Once, with the first output; entry 0 is None."""
    finish: FinishReason | None = None
    stop_reason: int | None = None
    error: str = ""
    cached_tokens: int = 0
    """Prompt tokens served from the prefix cache."""
    queue_s: float = 0.0
    """Seconds from submission to first scheduling; with the first output."""
    prefill_s: float = 0.0
    """Seconds from first scheduling to first token; with the first output."""
    embedding: bytes = b""
    """Pooled vector as little-endian float32, with the end of a pooling request."""


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the front end must know of a started engine."""

    device: str
    device_reason: str
    plugin: str
    plugin_version: str
    dtype: str
    max_model_len: int
    max_num_seqs: int
    max_batched_tokens: int
    block_size: int
    num_blocks: int
    kv_bytes: int
    weight_bytes: int
    vocab_size: int
    """Width of the logits: ids in [0, vocab_size) may be biased or allowed."""
    embedding_rows: int
    """Prompt ids must be below it."""
    refused_params: tuple[str, ...] = ()
    """Sampling parameters this device can neither obey nor hand to the host."""
    phase_seconds: dict[str, float] = {}
    choices: tuple[str, ...] = ()
    """One line for each selected backend or kernel, with the rejected and why."""
    prefix_cache: bool = False
    tasks: tuple[str, ...] = ("generate", "embed")
    """What requests may ask of the model, the main task first."""


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    """Gauges and counters of the engine; histograms come as raw samples since the last report."""

    running: int = 0
    waiting: int = 0
    waiting_by_reason: dict[str, int] = {}
    blocks_total: int = 0
    """Without scratch block 0."""
    blocks_free: int = 0
    """Free or cached and evictable."""
    slots_allocated: int = 0
    """Token places in blocks held by running sequences."""
    slots_used: int = 0
    """Of those, places that hold a token. Waste = 1 - used / allocated."""
    preemptions: int = 0
    prompt_tokens: int = 0
    prompt_tokens_cached: int = 0
    generation_tokens: int = 0
    prefix_queried_tokens: int = 0
    prefix_hit_tokens: int = 0
    finished: dict[str, int] = {}
    rejected: dict[str, int] = {}
    steps: int = 0
    step_tokens: tuple[int, ...] = ()
    last_step_age_s: float = 0.0
    drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    fallbacks: dict[str, int] = {}
    compiles_after_start: int = 0
    real_tokens: int = 0
    padded_tokens: int = 0


class Submit(msgspec.Struct, frozen=True, tag=True):
    """Run this; answered by Admitted or Rejected."""

    request: Request


class Abort(msgspec.Struct, frozen=True, tag=True):
    """End these now; unknown ids are ignored, so it may be sent twice.

    `reason` is ABORT, or STOP when the front end found a stop string.
    """

    request_ids: tuple[str, ...]
    reason: FinishReason = FinishReason.ABORT


class Alive(msgspec.Struct, frozen=True, tag=True):
    """Every second: all ids the front end still holds a handle for. The reaper ends the others."""

    request_ids: tuple[str, ...]


class GetStats(msgspec.Struct, frozen=True, tag=True):
    """Answered by Stats with the same number."""

    number: int


class ResetPrefixCache(msgspec.Struct, frozen=True, tag=True):
    """Forget all cached prefixes that nobody uses."""


class Shutdown(msgspec.Struct, frozen=True, tag=True):
    """Finish what runs (drain) or abort it, then leave."""

    drain: bool = True


class Admitted(msgspec.Struct, frozen=True, tag=True):
    """The request has its place in the queue."""

    request_id: str


class Rejected(msgspec.Struct, frozen=True, tag=True):
    """The request will not run; `code` is a wire code such as capacity_exceeded or queue_full."""

    request_id: str
    code: str
    message: str
    param: str | None = None


class Outputs(msgspec.Struct, frozen=True, tag=True):
    """All outputs of one step."""

    outputs: tuple[SequenceOutput, ...]


class Progressed(msgspec.Struct, frozen=True, tag=True):
    """Start-up, as the executor reports it; total 0 = unknown."""

    phase: Literal["load", "profile", "warm_up"]
    done: int
    total: int
    detail: str = ""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The engine takes requests."""

    info: EngineInfo


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The engine ends; `exit_code` is the process exit code of the error."""

    message: str
    exit_code: int


class Stats(msgspec.Struct, frozen=True, tag=True):
    """Answer to GetStats."""

    number: int
    stats: EngineStats


ToEngine: TypeAlias = Submit | Abort | Alive | GetStats | ResetPrefixCache | Shutdown
FromEngine: TypeAlias = Admitted | Rejected | Outputs | Progressed | Ready | Failed | Stats
