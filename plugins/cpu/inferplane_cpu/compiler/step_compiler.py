"""The CPU's GraphCompiler: one native program serves every shape up to its bucket.

What cannot be lowered leaves the step to torch, op by op; that is counted, logged and shown.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from inferplane.interfaces import Bucket, ExecutorStats, GraphCompiler, StepFunction
from inferplane_cpu.compiler.bound_step import BoundStep
from inferplane_cpu.compiler.capture import (
    SAMPLES,
    TOKENS,
    Columns,
    Deferred,
    NotLoweredError,
    Recording,
    Symbol,
)
from inferplane_cpu.compiler.lower import Lowering
from inferplane_cpu.compiler.proof import ROWS, check_program
from inferplane_cpu.compiler.weights import PackedWeights
from inferplane_cpu.native.machine import Machine, ProgramBuilder
from inferplane_cpu.native.packing import Packer

__all__ = ["StepCompiler"]

_logger = logging.getLogger(__name__)
_ROW_INPUTS = {"rows": SAMPLES}


class StepCompiler(GraphCompiler):
    """Captures, lowers and runs steps on one machine of threads."""

    dynamic: ClassVar[bool] = True

    def __init__(
        self,
        machine: Machine,
        max_context: int,
        max_rows: int,
        fallbacks: Mapping[str, int] | None = None,
    ) -> None:
        """`max_context`: tokens of the longest sequence; `max_rows`: most rows of logits a step;
        `fallbacks`: what the machine already had to do without.
        """
        self._fallbacks = dict(fallbacks or {})
        self._max_rows = max(max_rows, ROWS)
        self._machine = machine
        self._max_context = max_context
        self._weights = PackedWeights(Packer(machine.library))
        self._superfluous: list[Tensor] = []
        self._compiles = 0
        self._seconds = 0.0
        self.refused: list[str] = []
        """Why steps run per op, if they do."""

    def compile(
        self,
        fn: StepFunction,
        bucket: Bucket,
        kv: Mapping[str, object],
        example: Mapping[str, Tensor],
    ) -> StepFunction:
        """The native program, or `fn` itself where the step has no native form."""
        started = time.perf_counter()
        try:
            return self._compile(fn, bucket, kv, example)
        except NotLoweredError as reason:
            self.refused.append(str(reason))
            _logger.warning("the step runs op by op in torch, not compiled: %s", reason)
            return fn
        finally:
            self._compiles += 1
            self._seconds += time.perf_counter() - started

    def stats(self) -> ExecutorStats:
        """Counters; each refused program is a fallback."""
        refused = {"step program": len(self.refused)} if self.refused else {}
        return ExecutorStats(
            compiles=self._compiles,
            compile_seconds=self._seconds,
            fallbacks={**self._fallbacks, **refused},
        )

    def _compile(
        self,
        fn: StepFunction,
        bucket: Bucket,
        kv: Mapping[str, object],
        example: Mapping[str, Tensor],
    ) -> StepFunction:
        recording = Recording()
        symbols = {name: _symbol(name, tensor, recording) for name, tensor in example.items()}
        results = fn(kv, symbols)
        wanted = _sources(results.values())
        builder = ProgramBuilder(self._machine, bucket.num_tokens, self._max_rows)
        lowering = Lowering(recording.nodes, wanted, builder, self._weights)
        lowering.run()
        program = builder.build(bucket.num_seqs, self._max_context)
        compiled = BoundStep(program, lowering, results).run
        check_program(compiled, fn, kv, example, bucket.num_tokens, lowering.kinds)
        self._superfluous += _only_in_programs(recording)
        return compiled

    def seal(self) -> None:
        """Start-up is over: drop the loaded copies of weights that only programs read."""
        if not self.refused:
            freed = self._weights.release(self._superfluous)
            _logger.info("released %.0f MB of weights that are packed", freed / 1e6)
        self._superfluous.clear()


def _symbol(name: str, tensor: Tensor, recording: Recording) -> Symbol:
    """An input; its rows are the step's tokens unless its name says otherwise."""
    rows = _ROW_INPUTS.get(name, TOKENS)
    meta = torch.empty(rows, *tensor.shape[1:], dtype=tensor.dtype, device="meta")
    return Symbol(meta, recording, name)


def _only_in_programs(recording: Recording) -> list[Tensor]:
    """Weights of layers; the embedding and the output layer also serve log-probabilities."""
    weights = [n.attributes["weight"] for n in recording.nodes if n.op == "linear"]
    shared = [
        n.attributes["weight"]
        for n in recording.nodes
        if n.op == "embedding" or (n.op == "linear" and n.per_sample)
    ]
    kept = {weight.untyped_storage().data_ptr() for weight in shared if type(weight) is Tensor}
    return [
        weight
        for weight in weights
        if type(weight) is Tensor and weight.untyped_storage().data_ptr() not in kept
    ]


def _sources(values: Any) -> list[Columns]:
    """Node columns that outputs read, directly or through deferred calls."""
    found: list[Columns] = []
    for value in values:
        if type(value) is Symbol:
            value = value.source
        if isinstance(value, Columns):
            found.append(value)
        elif isinstance(value, Deferred):
            found += _sources((*value.args, *value.kwargs.values()))
        elif isinstance(value, (tuple, list)):
            found += _sources(value)
    return found
