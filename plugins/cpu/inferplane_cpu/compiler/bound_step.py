"""A native program as a step function: inputs in, views of its buffers out.

What each input and result is made of is decided once, when the program is made; a step only
follows the plan. T tokens, R sampled rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from inferplane_cpu.compiler.capture import Columns, Deferred, NotLoweredError, Symbol
from inferplane_cpu.compiler.lower import Lowering
from inferplane_cpu.compiler.placement import IDS
from inferplane_cpu.native.machine import NativeProgram, StepArrays

__all__ = ["BoundStep"]


class _Run:
    """What one step knows: its inputs, its sizes, and what torch made of them so far."""

    __slots__ = ("inputs", "made", "samples", "tokens")

    def __init__(self, inputs: Mapping[str, Tensor]) -> None:
        self.inputs = inputs
        self.made: dict[int, Any] = {}
        self.tokens = 0
        self.samples = 0


_Get: TypeAlias = Callable[[_Run], Any]


class BoundStep:
    """One program with what surrounds it in torch."""

    def __init__(
        self, program: NativeProgram, lowering: Lowering, results: Mapping[str, Any]
    ) -> None:
        """Raises NotLoweredError for a step that reads no tokens or positions."""
        bound = lowering.bindings
        if bound.token_ids is None or bound.positions is None:
            raise NotLoweredError("a step without token ids or positions")
        self._program = program
        self._places = lowering.places
        self._token_ids = self._getter(bound.token_ids)
        self._positions = self._getter(bound.positions)
        self._rows = None if bound.rows is None else self._getter(bound.rows)
        self._groups = tuple(
            {name: self._getter(symbol) for name, symbol in group.items()} for group in bound.groups
        )
        self._results = {name: self._getter(value) for name, value in results.items()}

    def run(self, kv: Mapping[str, object], inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """One step; results are views of the program's buffers, valid until the next; `ids` until
        the one after it."""
        run = _Run(inputs)
        token_ids = _int32(self._token_ids(run))
        rows = inputs.get("rows") if self._rows is None else self._rows(run)
        groups = self._groups
        self._program.run(
            StepArrays(
                token_ids=token_ids,
                positions=_int32(self._positions(run)),
                query_start=groups[0]["query_start"](run),
                seq_lens=groups[0]["seq_lens"](run),
                sample_rows=token_ids[:0] if rows is None else _int32(rows),
                tables=tuple(group["tables"](run) for group in groups),
                slots=tuple(group["slots"](run) for group in groups),
            )
        )
        run.tokens, run.samples = len(token_ids), 0 if rows is None else len(rows)
        return {name: get(run) for name, get in self._results.items()}

    def _getter(self, value: Any) -> _Get:
        """How to come by a symbol, a deferred call or a plain argument, symbols replaced."""
        tail: tuple[int, ...] | None = None
        if type(value) is Symbol:
            tail, value = tuple(value.meta.shape[1:]), value.source
        if isinstance(value, str):
            name = value
            return lambda run: run.inputs[name]
        if isinstance(value, Columns):
            return self._view(value, tail)
        if isinstance(value, Deferred):
            return self._call(value)
        if isinstance(value, (tuple, list)) and _varies(value):
            kind, getters = type(value), [self._getter(item) for item in value]
            return lambda run: kind(get(run) for get in getters)
        return lambda run: value

    def _view(self, columns: Columns, tail: tuple[int, ...] | None) -> _Get:
        place, per_sample = self._places[columns.node], columns.node.per_sample
        if place.buffer == IDS:
            return lambda run: self._program.ids[: run.samples]
        at = place.at + columns.at
        buffer = self._program.buffers[place.buffer][:, at : at + columns.width]
        if tail is None or len(tail) == 1:
            return lambda run: buffer[: run.samples if per_sample else run.tokens]
        return lambda run: buffer[: run.samples if per_sample else run.tokens].reshape(-1, *tail)

    def _call(self, call: Deferred) -> _Get:
        """Once a step, however many results it feeds."""
        arguments = [self._getter(item) for item in call.args]
        named = {key: self._getter(item) for key, item in call.kwargs.items()}
        key, function = id(call), call.function

        def get(run: _Run) -> Any:
            if key not in run.made:
                given = {name: value(run) for name, value in named.items()}
                run.made[key] = function(*(value(run) for value in arguments), **given)
            return run.made[key]

        return get


def _varies(value: Any) -> bool:
    """Whether anything in it is a symbol or a deferred call."""
    if isinstance(value, (tuple, list)):
        return any(_varies(item) for item in value)
    return type(value) is Symbol or isinstance(value, Deferred)


def _int32(tensor: Tensor) -> Tensor:
    """Nearly always what it is already."""
    if tensor.dtype is torch.int32 and tensor.is_contiguous():
        return tensor
    return tensor.to(torch.int32).contiguous()
