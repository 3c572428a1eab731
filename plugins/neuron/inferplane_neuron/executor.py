"""Steps of compiled programs: prompts alone, decodes together, KV in blocks.

B sequences of the bucket, L tokens of each, R sampled rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inferplane.checkpoint import open_checkpoint
from inferplane.checkpoint.arrays import iterate_arrays
from inferplane.errors import DeviceError, ModelError
from inferplane.interfaces import (
    Array,
    Bucket,
    Executor,
    ExecutorStats,
    KVPlan,
    Progress,
    StepBatch,
    StepResult,
    WorkerContext,
)
from inferplane.model_config import ModelConfig, read_model_config
from inferplane.shapes import last_rows, pad, shape_of
from inferplane_neuron.draw import draw_rows
from inferplane_neuron.graph import DecoderGraph, check_config, code_version, weight_names
from inferplane_neuron.platform import blocks_of
from inferplane_neuron.programs import Driver, Programs
from inferplane_neuron.sharding import Sharding

__all__ = ["NeuronExecutor"]


@dataclass(frozen=True, slots=True)
class _Pending:
    """A step under way: the outputs are read when they are asked for."""

    batch: StepBatch
    ids: Tensor
    logits: Tensor

    def result(self) -> StepResult:
        """Wait for the device. Raises DeviceError."""
        batch = self.batch
        try:
            ids = self.ids.cpu().numpy()[batch.sampled]
            logits = None
            if batch.host_rows is not None:
                rows = torch.from_numpy(batch.sampled[batch.host_rows])
                logits = self.logits.cpu()[rows.long()].numpy()
        except RuntimeError as error:
            raise DeviceError(f"step {batch.step} failed: {error}") from error
        failed = np.flatnonzero(ids < 0).astype(np.int32)
        if batch.host_rows is not None:  # drawn on the host, which sees their logits
            failed = np.setdiff1d(failed, batch.host_rows).astype(np.int32)
        token_ids = np.maximum(ids, 0).astype(np.int32)[:, None]
        return StepResult(token_ids, logits=logits, failed=failed if len(failed) else None)


class NeuronExecutor(Executor):
    """Programs draw what their limits allow; other rows hand their logits to the host.

    KV goes through the programs and comes back; a device's runtime aliases the two. A block is
    written from its beginning by each new owner and never read beyond what was written, so
    `StepBatch.zeroed` needs no work.
    """

    def __init__(self, context: WorkerContext, driver: Driver) -> None:
        self._context = context
        self._driver = driver
        self._config: ModelConfig | None = None
        self._sharding: Sharding | None = None
        self._weights: list[tuple[Tensor, ...]] = []
        """Of each core; `_numbers` and `_kv` likewise."""
        self._numbers: list[Tensor] = []
        self._kv: list[tuple[Tensor, Tensor]] = []
        self._programs: Programs | None = None
        self._real_tokens = self._padded_tokens = 0

    def load(self, progress: Progress) -> None:
        """Weights in the compute type, on the device. Raises ConfigError, ModelError."""
        settings = self._context.config
        checkpoint = open_checkpoint(Path(settings.model))
        self._config = config = read_model_config(checkpoint, settings.dtype, settings.quantization)
        check_config(config)
        dtype, names = getattr(torch, config.dtype), weight_names(config)
        cores = range(self._driver.cores)
        self._sharding = sharding = Sharding(
            len(cores), config.num_heads, config.num_kv_heads, config.head_dim
        )
        found: dict[str, list[Tensor]] = {}
        for name, array in iterate_arrays(checkpoint):
            if name in names:
                progress("load", len(found), len(names), name)
                whole = torch.from_numpy(array)
                parts = (sharding.cut(name, whole, core) for core in cores)
                found[name] = [part.to(self._driver.torch_device, dtype) for part in parts]
        missing = [name for name in names if name not in found]
        if missing:
            raise ModelError(
                f"{settings.model}: lacks {len(missing)} tensors, first {missing[0]!r}"
            )
        one = torch.int32
        self._numbers = [
            torch.tensor([core], dtype=one, device=self._driver.torch_device) for core in cores
        ]
        self._weights = [tuple(found[name][core] for name in names) for core in cores]

    def plan_kv(self) -> KVPlan:
        """Blocks for as many whole contexts as the engine may run, and scratch."""
        settings = self._context.config
        blocks = settings.max_num_seqs * blocks_of(settings)
        return KVPlan(blocks + 1, settings.block_size)

    def start(self, plan: KVPlan, progress: Progress) -> None:
        """Take the KV, then compile, or load, and run every bucket."""
        config, sharding = self._config, self._sharding
        assert config is not None and sharding is not None, "load comes first"
        heads = sharding.kv_heads_per_core, config.head_dim
        shape = (config.num_layers, plan.num_blocks, plan.block_size, *heads)
        dtype, device = getattr(torch, config.dtype), self._driver.torch_device
        self._kv = [
            (
                torch.zeros(*shape, dtype=dtype, device=device),
                torch.zeros(*shape, dtype=dtype, device=device),
            )
            for _ in self._weights
        ]
        context = blocks_of(self._context.config) * plan.block_size
        graph = DecoderGraph(config, context, self._driver.collectives()).eval()
        self._programs = Programs(graph, self._driver, self._context.cache, code_version())
        buckets = self._context.shapes.buckets()
        for done, bucket in enumerate(buckets):
            progress("warm_up", done, len(buckets), str(bucket))
            inputs = self._inputs(_idle(bucket), bucket)
            self._programs.prepare(bucket, inputs)
            self._kv = _kv_of(self._programs.run(bucket, inputs))
        self._programs.seal()
        progress("warm_up", len(buckets), len(buckets), "ready")

    def execute(self, batch: StepBatch) -> _Pending:
        """Run the program of the step's bucket. Raises DeviceError."""
        assert self._programs is not None, "start comes first"
        bucket = self._context.shapes.select(shape_of(batch, self._context.config.block_size))
        if bucket is None:
            raise DeviceError(f"step {batch.step}: no bucket holds it, and nothing runs eagerly")
        if batch.copied is not None:
            self._copy(batch.copied)
        inputs = self._inputs(batch, bucket)
        try:
            with torch.no_grad():
                outputs = self._programs.run(bucket, inputs)
        except RuntimeError as error:
            raise DeviceError(f"step {batch.step} failed: {error}") from error
        self._kv = _kv_of(outputs)
        self._real_tokens += len(batch.token_ids)
        self._padded_tokens += bucket.num_tokens
        return _Pending(batch, *outputs[0][:2])  # every core says the same

    def close(self) -> None:
        """Forget everything."""
        self._programs = None
        self._weights = []
        self._kv = []

    def stats(self) -> ExecutorStats:
        """Counters of compilation and padding."""
        if self._programs is None:
            return ExecutorStats()
        made = self._programs.stats()
        return ExecutorStats(
            compiles=made.compiles,
            cache_hits=made.cache_hits,
            compiles_after_start=made.compiles_after_start,
            compile_seconds=made.compile_seconds,
            real_tokens=self._real_tokens,
            padded_tokens=self._padded_tokens,
        )

    def _copy(self, pairs: Array) -> None:
        """Whole blocks; all sources are read before any target is written."""
        sources, targets = torch.from_numpy(pairs).long().unbind(1)
        for held in chain.from_iterable(self._kv):
            held[:, targets] = held[:, sources]

    def _inputs(self, batch: StepBatch, bucket: Bucket) -> list[tuple[Tensor, ...]]:
        """Arguments of the bucket's program on each core."""
        settings = self._context.config
        width = blocks_of(settings)
        padded = pad(batch, bucket, settings.block_size, width)
        rows = bucket.num_seqs, bucket.max_query
        last = last_rows(padded, bucket) % bucket.max_query
        arrays: tuple[Array, ...] = (
            padded.token_ids.reshape(rows),
            padded.positions.reshape(rows),
            padded.slots[0].reshape(rows),
            padded.block_tables[0][:, :width],
            last.astype(np.int32),
            draw_rows(batch.sampling, batch.sampled, bucket.num_seqs),
        )
        tensors = (torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)
        moved = tuple(tensor.to(self._driver.torch_device) for tensor in tensors)
        return [
            (*moved, self._numbers[core], *kv, *weights)
            for core, (kv, weights) in enumerate(zip(self._kv, self._weights, strict=True))
        ]


def _kv_of(outputs: Sequence[Sequence[Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Of what DecoderGraph.forward returns on each core."""
    return [(core[2], core[3]) for core in outputs]


def _idle(bucket: Bucket) -> StepBatch:
    """One token of one sequence on scratch block 0."""
    one, zero = np.ones(1, np.int32), np.zeros(1, np.int32)
    return StepBatch(
        step=-1,
        num_decodes=int(bucket.graph == "decode"),
        token_ids=zero,
        token_source=-one,
        positions=zero,
        query_start=np.array([0, 1], np.int32),
        seq_lens=one,
        lanes=-one,
        block_tables=(np.zeros((1, 1), np.int32),),
        slots=(zero,),
        sampled=zero,
    )
