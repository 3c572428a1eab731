"""One step function for each shape: captured by the platform's compiler, or run eagerly.

T tokens, R rows whose logits are wanted, D hidden size, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from inferplane.execution.attention_plan import AttentionPart
from inferplane.execution.torch_kv_store import KVHandle
from inferplane.interfaces import (
    AttentionBackend,
    AttentionMeta,
    Bucket,
    ExecutorStats,
    GraphCompiler,
    HeardRows,
    Model,
    StepFunction,
)

__all__ = ["Argmax", "Programs", "StepContext", "part_prefix", "step_function"]

_logger = logging.getLogger(__name__)

Argmax: TypeAlias = Callable[[Tensor], Tensor]
"""f32[R,V] -> i32[R], -1 where a row is not finite."""


def part_prefix(index: int) -> str:
    """What the names of a part's arrays begin with, among a step's inputs."""
    return f"attention.{index}."


@dataclass(slots=True)
class StepContext:
    """The ForwardContext of one run: for each layer its backend, KV handle and metadata."""

    backends: Mapping[str, AttentionBackend]
    kv: Mapping[str, object]
    metas: Mapping[str, AttentionMeta]
    segments: Tensor | None = None
    media: tuple[Tensor, Tensor] | None = None
    heard: HeardRows | None = None
    audio_slots: Tensor | None = None

    def attend(self, layer: str, q: Tensor, k: Tensor | None, v: Tensor | None) -> Tensor:
        """Write k, v and attend, through the layer's backend."""
        return self.backends[layer].forward(q, k, v, self.kv.get(layer), self.metas[layer])

    def keep(self, layer: str, k: Tensor, v: Tensor) -> None:
        """Write the keys and values of the audio rows."""
        handle = self.kv[layer]
        assert isinstance(handle, KVHandle) and self.audio_slots is not None
        handle.write(self.audio_slots, k, v)


def step_function(
    model: Model,
    parts: Sequence[AttentionPart],
    metas: Sequence[AttentionMeta],
    argmax: Argmax | None,
    generates: bool = True,
) -> StepFunction:
    """What runs on the device between upload and sampling, over named tensors.

    Inputs: `token_ids` i32[T], `positions` i32[T], `rows` i32[R] (absent: every token row), where
    tokens may come from the previous step `token_source` i32[T] and `previous` i32[1+lanes], and
    each part's arrays under `part_prefix`; for encoders `segments` i32[T] may be there, for models
    that see pictures or hear `media_rows` i64[n] and `media_values` [n,D], for those that hear
    `audio_rows` and `audio_slots` i64[A] and `text_rows` i64[X]. Outputs: `hidden` [T,D], unless
    R = 0 or not `generates` `logits` f32[R,V] and, with `argmax`, `ids` i32[R]. Of `metas` only
    static and host parts are used.
    """
    backends = {name: part.backend for part in parts for name in part.layers}

    def step(kv: Mapping[str, object], inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        by_layer: dict[str, AttentionMeta] = {}
        for index, (part, meta) in enumerate(zip(parts, metas, strict=True)):
            prefix = part_prefix(index)
            arrays = {name: inputs[prefix + name] for name in meta.arrays}
            by_layer |= dict.fromkeys(part.layers, AttentionMeta(meta.static, arrays, meta.host))
        token_ids = _token_ids(inputs)
        context = StepContext(
            backends,
            kv,
            by_layer,
            inputs.get("segments"),
            _media(inputs),
            _heard(inputs),
            inputs.get("audio_slots"),
        )
        hidden = model.forward(token_ids, inputs["positions"], context)
        rows = inputs.get("rows")
        if not generates or (rows is not None and not rows.shape[0]):
            return {"hidden": hidden}
        logits = model.logits(hidden if rows is None else hidden.index_select(0, rows))
        outputs = {"hidden": hidden, "logits": logits}
        if argmax is not None:
            outputs["ids"] = argmax(logits)
        return outputs

    return step


def _media(inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor] | None:
    rows = inputs.get("media_rows")
    return None if rows is None else (rows, inputs["media_values"])


def _heard(inputs: Mapping[str, Tensor]) -> HeardRows | None:
    rows = inputs.get("audio_rows")
    return None if rows is None else HeardRows(rows, inputs["text_rows"])


def _token_ids(inputs: Mapping[str, Tensor]) -> Tensor:
    """Host values, or rows of `previous` where `token_source` names one of the step before.

    Row 0 is -1 and stands for the host; where a token comes from the device the host says 0.
    """
    source = inputs.get("token_source")
    if source is None:
        return inputs["token_ids"]
    return torch.maximum(inputs["token_ids"], inputs["previous"].index_select(0, source))


class Programs:
    """The programs of one model. Compiling after `seal` is counted: it stalls requests."""

    def __init__(
        self,
        model: Model,
        parts: Sequence[AttentionPart],
        compiler: GraphCompiler | None,
        argmax: Argmax,
        generates: bool = True,
    ) -> None:
        """`generates` False: no step wants logits."""
        self._model = model
        self._generates = generates
        self._argmax = argmax
        self._parts = tuple(parts)
        self._compiler = compiler
        self._compiled: dict[tuple[Bucket, tuple[Hashable, ...]], StepFunction] = {}
        self._compiles_at_seal = 0
        self._sealed = False

    def compiles(self, bucket: Bucket | None) -> bool:
        """Whether steps of this bucket run a captured program."""
        if self._compiler is None or bucket is None:
            return False
        return all(_captures(part.backend, bucket) for part in self._parts)

    def takes_any_shape(self, bucket: Bucket) -> bool:
        """Whether this bucket's steps need no padding."""
        return self._compiler is not None and self._compiler.dynamic and self.compiles(bucket)

    def eager(self, metas: Sequence[AttentionMeta], finish: bool) -> StepFunction:
        """The step function for one step's metadata, run op by op; `finish` adds `ids`."""
        argmax = self._argmax if finish else None
        return step_function(self._model, self._parts, metas, argmax, self._generates)

    def compiled(
        self,
        bucket: Bucket,
        metas: Sequence[AttentionMeta],
        kv: Mapping[str, object],
        example: Mapping[str, Tensor],
    ) -> StepFunction:
        """The program of a bucket, made now if there is none; also does the host work before it."""
        assert self._compiler is not None
        key = bucket, tuple(meta.static for meta in metas)
        program = self._compiled.get(key)
        if program is None:
            if self._sealed:
                _logger.warning("compiling %s while serving: warm-up did not run it", bucket)
            fn = step_function(self._model, self._parts, metas, self._argmax, self._generates)
            program = self._compiled[key] = self._compiler.compile(fn, bucket, kv, example)
        self._compiler.before_replay(bucket, tuple(meta.host for meta in metas))
        return program

    def seal(self) -> None:
        """Warm-up is over."""
        self._sealed = True
        if self._compiler is not None:
            self._compiler.seal()
            self._compiles_at_seal = self._compiler.stats().compiles

    def stats(self) -> ExecutorStats:
        """The compiler's counters, with `compiles_after_start` since `seal`."""
        if self._compiler is None:
            return ExecutorStats()
        made = self._compiler.stats()
        late = made.compiles - self._compiles_at_seal if self._sealed else 0
        return ExecutorStats(
            compiles=made.compiles,
            cache_hits=made.cache_hits,
            compiles_after_start=late,
            compile_seconds=made.compile_seconds,
            host_syncs=made.host_syncs,
            fallbacks=made.fallbacks,
        )


def _captures(backend: AttentionBackend, bucket: Bucket) -> bool:
    return backend.graph == "always" or (backend.graph == "decode" and bucket.graph == "decode")
