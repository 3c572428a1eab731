"""The engine without arithmetic: a device whose next token is a hash of all tokens before it.

It honours a StepBatch completely and checks it: each KV slot holds a digest of the whole prefix up
to its token, so a wrong table, a stale block or a misplaced copy changes tokens or is an error.
It is also a plugin module: `plugins=("inferplane.testing.null",)` offers "null" and its variants.
Legend: T tokens, S sequences, R sampled rows, V vocabulary.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import numpy as np

from inferplane.errors import CapacityError, ConfigError, DeviceError
from inferplane.hookspecs import Register, hookimpl
from inferplane.interfaces import (
    Array,
    Capabilities,
    EngineConfig,
    Executor,
    ExecutorStats,
    KVGroup,
    KVPlan,
    Logprobs,
    ModelShape,
    Platform,
    Probe,
    Progress,
    SamplerCaps,
    SamplingBatch,
    SchedulerLimits,
    StepBatch,
    StepResult,
    Topology,
    WorkerContext,
)
from inferplane.sampling.host_sampler import Drawn, draw, score, take_rows
from inferplane.testing.shadow_kv import ShadowKV, mix, next_token

__all__ = [
    "NarrowNullPlatform",
    "NullExecutor",
    "NullOptions",
    "NullPending",
    "NullPlatform",
    "SyncNullPlatform",
    "null_tokens",
]

INTERFACE_VERSION = (1, 0)


@hookimpl
def register_platforms(register: Register) -> None:
    """The platform "null" and variants with other limits."""
    register("null", "inferplane.testing.null:NullPlatform")
    register("null_sync", "inferplane.testing.null:SyncNullPlatform")
    register("null_narrow", "inferplane.testing.null:NarrowNullPlatform")


def null_tokens(prompt: Sequence[int], count: int, vocab_size: int) -> list[int]:
    """What the null device answers greedily after `prompt`, from first principles."""
    tokens = list(prompt)
    for _ in range(count):
        ids = np.array(tokens, np.uint64)
        digest = mix(ids, np.arange(len(tokens), dtype=np.uint64)).sum(keepdims=True)
        tokens.append(int(next_token(digest, vocab_size)[0]))
    return tokens[len(prompt) :]


@dataclass(frozen=True, slots=True)
class NullOptions:
    """How the device behaves, and how it fails. Token options name a token; -1 = never."""

    blocks: int = 257
    """KV blocks, scratch block 0 included."""
    block_size: int = 16
    windows: str = ""
    """One KV group a word, 0 = full attention: "0 64". Empty: one full group."""
    placement: str = "inline"
    processes: int = 1
    step_ms: float = 0.0
    """How long a step takes on the device."""
    load_ms: float = 0.0
    """How long loading takes, told in four parts."""
    check: int = 1
    """1: verify the whole context of every sequence at each step."""
    nan_token: int = -1
    """A row fails when this is its last input."""
    crash_token: int = -1
    """A step that reads it raises DeviceError."""
    oom_token: int = -1
    """A step that reads it finds no memory and raises MemoryError."""
    bug_token: int = -1
    """A step that reads it raises ZeroDivisionError, as a broken plugin might."""
    kill_token: int = -1
    """A step that reads it kills the process."""
    hang_token: int = -1
    """A step that reads it does not end within an hour."""
    refuse: str = ""
    """"config", "capacity" or "device": how start-up fails."""

    @classmethod
    def parse(cls, options: Mapping[str, str]) -> NullOptions:
        """From `EngineConfig.options`. Raises ConfigError naming the option."""
        kinds = {"int": int, "float": float, "str": str}
        named = {field.name: kinds[str(field.type)] for field in fields(cls)}
        values: dict[str, object] = {}
        for name, text in options.items():
            try:
                values[name] = named[name](text)
            except (KeyError, ValueError) as error:
                raise ConfigError(f"option {name}={text!r} is none of {named}") from error
        return cls(**values)  # type: ignore[arg-type]  # each value has its field's type

    def groups(self) -> tuple[KVGroup, ...]:
        """One KV group for each window."""
        windows = [int(word) for word in self.windows.split()] or [0]
        return tuple(KVGroup(window=window or None) for window in windows)


class NullPlatform(Platform):
    """A device that is always there and computes nothing; steps overlap."""

    score: ClassVar = 3
    limits: ClassVar = SchedulerLimits(
        max_prefill_seqs=None,
        mix_prefill_decode=True,
        chunked_prefill=True,
        prefix_cache=True,
        async_steps=1,
    )
    sampler: ClassVar = SamplerCaps(
        params=(
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
        ),
        max_logprobs=20,
    )

    def probe(self, env: Mapping[str, str]) -> Probe:
        """Always found, at a low score."""
        return Probe(True, "no arithmetic, for tests", self.score, device_count=8, arch="null")

    def capabilities(self, probe: Probe, model: ModelShape | None) -> Capabilities:
        """What the class says."""
        return Capabilities(
            block_multiple=1,
            limits=self.limits,
            sampler=self.sampler,
            options={field.name: "see NullOptions" for field in fields(NullOptions)},
        )

    def topology(self, config: EngineConfig, caps: Capabilities) -> Topology:
        """As the options say."""
        options = NullOptions.parse(config.options)
        if options.placement == "inline":
            return Topology(1, 1, "inline")
        return Topology(options.processes, 1, "worker")

    def create_executor(self, context: WorkerContext) -> Executor:
        """The null executor of this model's vocabulary."""
        return NullExecutor(
            NullOptions.parse(context.config.options),
            vocab_size=context.model.vocab_size,
            max_num_seqs=context.config.max_num_seqs,
        )


class SyncNullPlatform(NullPlatform):
    """The null device when no step is enqueued before the last one's tokens are known."""

    score: ClassVar = 2
    limits: ClassVar = replace(NullPlatform.limits, async_steps=0, max_drafts=8)


class NarrowNullPlatform(NullPlatform):
    """The null device as the most limited kind: one whole prefill a step, greedy sampler."""

    score: ClassVar = 1
    limits: ClassVar = SchedulerLimits()
    sampler: ClassVar = SamplerCaps(params=("prompt_logprobs",))


class NullExecutor(Executor):
    """One rank of the null device. Read `steps`, `lanes` and `batches_seen` in tests."""

    def __init__(self, options: NullOptions, vocab_size: int, max_num_seqs: int) -> None:
        self.options = options
        self.vocab_size = vocab_size
        self.max_num_seqs = max_num_seqs
        self.steps = 0
        self.real_tokens = 0
        self.lanes: set[int] = set()
        self.closed = False
        self._previous = np.zeros(0, np.int32)
        self._free_at = 0.0

    def load(self, progress: Progress) -> None:
        """Nothing, in four parts. Raises what `refuse` names."""
        if self.options.refuse == "config":
            raise ConfigError("the null device refuses to load: option refuse=config")
        if self.options.refuse == "device":
            raise DeviceError("the null device fails to load: option refuse=device")
        for part in range(4):
            time.sleep(self.options.load_ms / 4000)
            progress("load", part + 1, 4, "nothing")

    def plan_kv(self) -> KVPlan:
        """As the options say."""
        if self.options.refuse == "capacity":
            raise CapacityError("the null device has no memory: option refuse=capacity")
        return KVPlan(self.options.blocks, self.options.block_size, self.options.groups())

    def start(self, plan: KVPlan, progress: Progress) -> None:
        """Make the shadow KV."""
        self._kv = [ShadowKV(plan.num_blocks, plan.block_size, g.window) for g in plan.groups]
        progress("warm_up", 1, 1, "nothing")

    def execute(self, batch: StepBatch) -> NullPending:
        """Compute at once; the result is handed out when the simulated device would be done."""
        self._keep_lanes(batch)
        token_ids_T = self._inputs(batch)
        self._misbehave(token_ids_T)
        digests_T = self._kv[0].step(batch, 0, token_ids_T)
        for group, kv in enumerate(self._kv[1:], 1):
            kv.step(batch, group, token_ids_T)
        if self.options.check:
            for group, kv in enumerate(self._kv):
                kv.check(batch, group)
        result = self._result(batch, token_ids_T, digests_T)
        self._previous = result.token_ids[:, 0].copy()
        if batch.host_rows is not None:
            self._previous[batch.host_rows] = -1
        self.steps += 1
        self.real_tokens += len(token_ids_T)
        self._free_at = max(self._free_at, time.monotonic()) + self.options.step_ms / 1000
        return NullPending(result, self._free_at)

    def close(self) -> None:
        """Remember it."""
        self.closed = True

    def stats(self) -> ExecutorStats:
        """Tokens so far; nothing is ever padded."""
        return ExecutorStats(real_tokens=self.real_tokens, padded_tokens=self.real_tokens)

    def _keep_lanes(self, batch: StepBatch) -> None:
        if batch.released is not None:
            self.lanes.difference_update(batch.released.tolist())
        lanes = batch.lanes.tolist()
        assert len(set(lanes)) == len(lanes), f"a lane twice in one step: {lanes}"
        assert all(0 <= lane < self.max_num_seqs for lane in lanes), f"no such lane: {lanes}"
        self.lanes.update(lanes)

    def _inputs(self, batch: StepBatch) -> Array:
        token_ids_T = batch.token_ids.copy()
        from_device = np.flatnonzero(batch.token_source >= 0)
        if len(from_device):
            token_ids_T[from_device] = self._previous[batch.token_source[from_device]]
        assert (token_ids_T >= 0).all(), "an input was drawn on the host or is a placeholder"
        assert (token_ids_T < self.vocab_size).all(), "an input is beyond the vocabulary"
        return token_ids_T

    def _misbehave(self, token_ids_T: Array) -> None:
        options = self.options
        if options.crash_token in token_ids_T:
            raise DeviceError(f"the null device broke on token {options.crash_token}")
        if options.oom_token in token_ids_T:
            raise MemoryError(f"the null device has no memory for token {options.oom_token}")
        if options.bug_token in token_ids_T:
            raise ZeroDivisionError("the null device has a bug")
        if options.kill_token in token_ids_T:
            os.kill(os.getpid(), signal.SIGKILL)
        if options.hang_token in token_ids_T:
            time.sleep(3600)

    def _result(self, batch: StepBatch, token_ids_T: Array, digests_T: Array) -> StepResult:
        last_R = batch.query_start[batch.sampled + 1] - 1
        failed = np.flatnonzero(token_ids_T[last_R] == self.options.nan_token)
        for kv_group, kv in enumerate(self._kv if len(failed) else ()):
            kv.poison(batch, kv_group, batch.sampled[failed])
        if batch.drafts is not None:
            token_ids, logprobs = self._verify(batch, token_ids_T, digests_T, last_R)
        else:
            drawn = self._draw(digests_T[last_R], batch.sampling)
            token_ids, logprobs = drawn.token_ids[:, None], drawn.logprobs
            failed = np.union1d(failed, drawn.failed)
        logits = None
        if batch.host_rows is not None:
            logits = self._logits(digests_T[last_R[batch.host_rows]])
            logits[np.isin(batch.host_rows, failed)] = np.nan
        return StepResult(
            token_ids,
            logprobs,
            self._scores(batch, digests_T),
            logits,
            self._embeddings(batch, digests_T),
            failed=failed.astype(np.int32) if len(failed) else None,
        )

    def _draw(self, digests_R: Array, sampling: SamplingBatch | None) -> Drawn:
        if sampling is None or _plain(sampling):
            return Drawn(next_token(digests_R, self.vocab_size), None, np.zeros(0, np.int64))
        return draw(self._logits(digests_R), sampling)

    def _verify(
        self, batch: StepBatch, token_ids_T: Array, digests_T: Array, last_R: Array
    ) -> tuple[Array, Logprobs | None]:
        """i32[R,W]: draw at each draft's place and go on while the draft was right.

        Log-probabilities are those of the first place: who wants them has no drafts.
        """
        assert batch.drafts is not None and batch.sampling is not None
        drafts_R = batch.drafts[batch.sampled]
        out = np.full((len(last_R), 1 + int(drafts_R.max(initial=0))), -1, np.int32)
        rows, logprobs = np.arange(len(last_R)), None
        for column in range(out.shape[1]):
            at = last_R[rows] - drafts_R[rows] + column
            sampling = take_rows(batch.sampling, rows)
            sampling = replace(sampling, position=sampling.position + np.uint64(column))
            drawn = self._draw(digests_T[at], sampling)
            logprobs = drawn.logprobs if column == 0 else logprobs
            out[rows, column] = drawn.token_ids
            more = np.flatnonzero(drafts_R[rows] > column)
            rows = rows[more][token_ids_T[at[more] + 1] == out[rows[more], column]]
        return out, logprobs

    def _logits(self, digests_N: Array) -> Array:
        """f32[N,V]: noise below 4, and 8 more for the greedy token."""
        ids = np.arange(self.vocab_size, dtype=np.uint64)
        noise = mix(ids[None, :], digests_N[:, None]) >> np.uint64(40)
        logits = noise.astype(np.float32) * np.float32(4 * 2.0**-24)
        logits[np.arange(len(digests_N)), next_token(digests_N, self.vocab_size)] += 8.0
        return logits

    def _scores(self, batch: StepBatch, digests_T: Array) -> Logprobs | None:
        if batch.scored is None:
            return None
        rows, ids = batch.scored[:, 0], batch.scored[:, 1]
        return score(self._logits(digests_T[rows]), ids, batch.num_scored_logprobs)

    def _embeddings(self, batch: StepBatch, digests_T: Array) -> Array | None:
        if batch.embedded is None:
            return None
        last_E = batch.query_start[batch.embedded + 1] - 1
        words = mix(np.arange(16, dtype=np.uint64)[None, :], digests_T[last_E][:, None])
        vectors: Array = ((words >> np.uint64(40)).astype(np.float32) * 2.0**-24).astype(np.float32)
        return vectors


@dataclass(frozen=True, slots=True)
class NullPending:
    """A step under way on the simulated device."""

    step_result: StepResult
    ready_at: float

    def result(self) -> StepResult:
        """Wait as long as a device would."""
        wait = self.ready_at - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        return self.step_result


def _plain(sampling: SamplingBatch) -> bool:
    extras = (sampling.penalties, sampling.bias, sampling.bitmask)
    return (
        all(extra is None for extra in extras)
        and not sampling.temperature.any()
        and bool((sampling.num_logprobs < 0).all())
    )
