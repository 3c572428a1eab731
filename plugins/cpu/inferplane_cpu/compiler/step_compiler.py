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
from inferplane_cpu.compiler.capture import (
    SAMPLES,
    TOKENS,
    Columns,
    Deferred,
    NotLoweredError,
    Recording,
    Symbol,
)
from inferplane_cpu.compiler.lower import Bindings, Lowering
from inferplane_cpu.compiler.proof import check_program
from inferplane_cpu.compiler.weights import PackedWeights
from inferplane_cpu.native.machine import Machine, NativeProgram, ProgramBuilder, StepArrays
from inferplane_cpu.native.packing import Packer

__all__ = ["StepCompiler"]

_logger = logging.getLogger(__name__)
_ROW_INPUTS = {"rows": SAMPLES}


class StepCompiler(GraphCompiler):
    """Captures, lowers and runs steps on one machine of threads."""

    dynamic: ClassVar[bool] = True

    def __init__(self, machine: Machine, max_context: int, max_rows: int) -> None:
        """`max_context`: tokens of the longest sequence; `max_rows`: most rows of logits a step."""
        self._max_rows = max_rows
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
        return ExecutorStats(
            compiles=self._compiles,
            compile_seconds=self._seconds,
            fallbacks={"step program": len(self.refused)} if self.refused else {},
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
        compiled = _Compiled(program, lowering, results).run
        check_program(compiled, fn, kv, example)
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


class _Compiled:
    """One program with what surrounds it in torch."""

    def __init__(
        self, program: NativeProgram, lowering: Lowering, results: Mapping[str, Any]
    ) -> None:
        self._program = program
        self._places = lowering.places
        self._results = results
        self._bindings: Bindings = lowering.bindings
        if self._bindings.token_ids is None or self._bindings.positions is None:
            raise NotLoweredError("a step without token ids or positions")

    def run(self, kv: Mapping[str, object], inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """One step; results are views of the program's buffers, valid until the next."""
        made: dict[int, Any] = {}
        bound = self._bindings
        token_ids = self._value(bound.token_ids, inputs, made)
        rows = inputs["rows"] if bound.rows is None and "rows" in inputs else None
        rows = self._value(bound.rows, inputs, made) if bound.rows is not None else rows
        first = {name: self._value(s, inputs, made) for name, s in bound.groups[0].items()}
        groups = [first] + [
            {name: self._value(s, inputs, made) for name, s in group.items()}
            for group in bound.groups[1:]
        ]
        self._program.run(
            StepArrays(
                token_ids=_int32(token_ids),
                positions=_int32(self._value(bound.positions, inputs, made)),
                query_start=first["query_start"],
                seq_lens=first["seq_lens"],
                sample_rows=_int32(rows) if rows is not None else token_ids[:0],
                tables=tuple(group["tables"] for group in groups),
                slots=tuple(group["slots"] for group in groups),
            )
        )
        sizes = len(token_ids), 0 if rows is None else len(rows)
        return {
            name: self._result(value, inputs, made, sizes) for name, value in self._results.items()
        }

    def _value(self, symbol: Any, inputs: Mapping[str, Tensor], made: dict[int, Any]) -> Tensor:
        result = self._result(symbol, inputs, made, (0, 0))
        assert isinstance(result, Tensor)
        return result

    def _result(
        self,
        value: Any,
        inputs: Mapping[str, Tensor],
        made: dict[int, Any],
        sizes: tuple[int, int],
    ) -> Any:
        """A symbol, deferred call or plain argument with real tensors in place of symbols."""
        shape: tuple[int, ...] | None = None
        if type(value) is Symbol:
            shape, value = tuple(value.meta.shape[1:]), value.source
        if isinstance(value, str):
            return inputs[value]
        if isinstance(value, Columns):
            place = self._places[value.node]
            count = sizes[1] if value.node.per_sample else sizes[0]
            at = place.at + value.at
            rows = self._program.buffers[place.buffer][:count, at : at + value.width]
            return rows if shape is None or len(shape) == 1 else rows.reshape(count, *shape)
        if isinstance(value, Deferred):
            if id(value) not in made:
                arguments = [self._result(a, inputs, made, sizes) for a in value.args]
                named = {k: self._result(v, inputs, made, sizes) for k, v in value.kwargs.items()}
                made[id(value)] = value.function(*arguments, **named)
            return made[id(value)]
        if isinstance(value, (tuple, list)):
            return type(value)(self._result(item, inputs, made, sizes) for item in value)
        return value


def _int32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.int32).contiguous()
