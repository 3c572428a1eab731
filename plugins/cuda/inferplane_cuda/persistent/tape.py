"""Ops of a one-token step are noted instead of launched, and then launched as one.

While a tape runs, this plugin's ops write down addresses. Whatever else torch or Triton is asked to
compute in between first launches what has been noted, so that everything happens in order; views
and allocations pass. N heads, K KV heads, H head size, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode
from triton import knobs

from inferplane_cuda.persistent.instructions import (
    LEFT_NORMED,
    LEFT_OUT,
    LEFT_TOTAL,
    NO_HEADS,
    WORDS,
    Before,
    Heads,
    Kind,
    Matrix,
    Mode,
    Weights,
    bits_of,
    half_of,
    words,
)
from inferplane_cuda.persistent.launcher import MOST_INSTRUCTIONS, longest_row
from inferplane_cuda.persistent.products import Products

__all__ = ["AttentionCall", "NotTapedError", "Tape", "Walker", "settle", "tape_for"]

_ALLOCATIONS = {
    torch.ops.aten.empty.memory_format,
    torch.ops.aten.empty_like.default,
    torch.ops.aten.empty_strided.default,
    torch.ops.aten.new_empty.default,
}


class Walker(Protocol):
    """Who walks the instructions: the launcher of a device."""

    @property
    def blocks(self) -> int:
        """Among which a matrix's tiles are divided."""

    def begin(self) -> None:
        """A step begins."""

    def launch(
        self, rows: Sequence[list[int]], weights: Weights, heads: Heads, longest: int, left: int
    ) -> None:
        """Do what the rows say; they leave `left` words for each other."""


class NotTapedError(Exception):
    """The step does something between two noted ops that a tape cannot put in order."""


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """One decode of one row: the caches, the output, scratch, the work list, the table."""

    heads: tuple[int, int, int]
    """KV heads, query heads to each, head size."""
    page: int
    scale: float
    """Of scores whose unit is log2."""
    items: int
    pointers: tuple[Tensor, ...]
    """k_cache, v_cache, out, parts, stats, arrivals, items, table."""


@dataclass(slots=True)
class _Pending:
    """A norm or gate that waits for the matrix behind it."""

    before: Before
    x: Tensor
    out: Tensor
    residual: Tensor | None = None
    weight: Tensor | None = None
    total: Tensor | None = None
    eps: float = 0.0


@dataclass(slots=True)
class _Turned:
    """Rotated heads that exist nowhere: attention turns them itself."""

    sources: tuple[Tensor, Tensor]
    results: tuple[Tensor, Tensor]
    tables: tuple[Tensor, Tensor]
    weights: tuple[Tensor, Tensor] | None
    eps: float


class Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's mode has no types
    """Entered around one run of a step; `instructions` counts what was noted."""

    def __init__(self, launcher: Walker) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.instructions = 0
        self._launcher = launcher
        self._pending: _Pending | None = None
        self._turned: _Turned | None = None
        self._heads: Heads = NO_HEADS
        self._reset()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: to skip it torch imports its compiler, which takes longer than the step."""
        return False

    def __enter__(self) -> Tape:
        self._launcher.begin()
        self.instructions = 0
        knobs.runtime.launch_enter_hook.add(self._before_launch)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        knobs.runtime.launch_enter_hook.remove(self._before_launch)
        if error[0] is None:
            self.flush()
        else:
            self._pending = self._turned = None
            self._reset()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Anything that computes comes after what has been noted.

        In inference mode `to`, `reshape` and their like arrive whole, and only what they are made
        of says whether they copy.
        """
        if func.is_view and func._can_decompose():
            super().__enter__()  # type: ignore[no-untyped-call]
            try:
                return func.decompose(*args, **(kwargs or {}))
            finally:
                super().__exit__(None, None, None)  # type: ignore[no-untyped-call]
        if not func.is_view and func not in _ALLOCATIONS:
            self.flush()
        return func(*args, **(kwargs or {}))

    def norm(
        self, x: Tensor, residual: Tensor | None, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """(rms_norm of x[1,I] + residual, that sum); without a residual the sum is x."""
        self._settle()
        total = x if residual is None else torch.empty_like(x)
        kept = None if residual is None else total
        out = torch.empty_like(x)
        self._pending = _Pending(Before.NORM, x, out, residual, weight, kept, eps)
        return out, total

    def gate(self, x: Tensor) -> Tensor:
        """silu of the first half of x[1,2I] times the second half.

        A matrix noted last gives that at once; its own outputs are then nowhere.
        """
        self._settle()
        out = torch.empty((1, x.shape[-1] // 2), dtype=x.dtype, device=x.device)
        last = self._rows[-1] if self._rows else None
        is_made_last = last is not None and last[0] & 255 == Kind.STREAM and last[8] == x.data_ptr()
        if last is not None and is_made_last and x.shape[-1] % 32 == 0:
            self._tiles += x.shape[-1] // 32 - _tiles(last)
            last[0] = last[0] & ~(255 << 16) | Mode.PAIRED << 16
            last[8] = out.data_ptr()
            self._products.add(last, LEFT_OUT, out)
            self._kept.append(out)
            return out
        self._pending = _Pending(Before.SILU, x, out)
        return out

    def matrix(self, x: Tensor, matrix: Matrix) -> Tensor:
        """x[1,I] -> [1,O]."""
        waiting = self._pending
        if waiting is not None and not _same(x, waiting.out):
            self._settle()
            waiting = None
        self._weigh(matrix.weights)
        waiting = self._pending  # None where other weights were launched first
        self._pending = None
        if waiting is None:
            waiting = _Pending(Before.NOTHING, x, x)
        out = torch.empty((1, matrix.outputs), dtype=x.dtype, device=x.device)
        self._note(Kind.STREAM, waiting, matrix, out)
        return out

    def turn(
        self,
        q: Tensor,
        k: Tensor,
        cos: Tensor,
        sin: Tensor,
        weights: tuple[Tensor, Tensor] | None,
        eps: float,
    ) -> tuple[Tensor, Tensor]:
        """Rotated q[1,N,H] and k[1,K,H], for `attend` alone to read."""
        self._settle()
        if self._turned is not None:
            raise NotTapedError("a rotation that no attention read")
        results = (
            torch.empty(q.shape, dtype=q.dtype, device=q.device),
            torch.empty(k.shape, dtype=k.dtype, device=k.device),
        )
        self._turned = _Turned((q, k), results, (cos, sin), weights, eps)
        return results

    def attend(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> None:
        """Write k and v to the cache and attend; q, k and v [1, heads, H]."""
        self._settle()
        turned, self._turned = self._turned, None
        if turned is None:
            turned = _Turned((q, k), (q, k), (q, q), None, 0.0)
            pairs = 0
        else:
            pairs = turned.tables[0].shape[-1]
        if not (_same(q, turned.results[0]) and _same(k, turned.results[1])):
            raise NotTapedError("attention over other rows than those rotated last")
        kv_heads, members, size = call.heads
        heads = Heads(
            kv_heads, members, size, pairs, call.page, bits_of(call.scale),
            bits_of(turned.eps), int(turned.weights is not None),
        )  # fmt: skip
        if self._heads not in (NO_HEADS, heads):
            self.flush()
        self._heads = heads
        others = (*call.pointers, *turned.tables, *(turned.weights or (None, None)))
        read = tuple(self._products.source(x) for x in (*turned.sources, v))
        row = words(Kind.ATTEND, call.items, (*read, *others))
        self._products.add(row, LEFT_OUT, call.pointers[2])
        self._add(row, half_of(q.dtype), q, k, v, *turned.sources, *others)

    def flush(self) -> None:
        """Launch what has been noted. Raises NotTapedError while a rotation waits."""
        if self._turned is not None:
            self._turned = None
            raise NotTapedError("something other than attention reads a rotation")
        self._settle()
        rows, weights, heads, longest = self._rows, self._weights, self._heads, self._longest
        kept, half, left = self._kept, self._half, self._products.words
        self._reset()
        if rows:
            self._launcher.launch(rows, weights or Weights(16, 0, half), heads, longest, left)
        kept.clear()

    def _before_launch(self, *_: Any, **__: Any) -> None:
        self.flush()

    def _reset(self) -> None:
        self._rows: list[list[int]] = []
        self._kept: list[Tensor | None] = []  # alive until launched: no address has two meanings
        self._products = Products()
        self._weights: Weights | None = None
        self._heads = NO_HEADS
        self._longest = 8
        self._tiles = 0
        self._half = 0

    def _weigh(self, weights: Weights) -> None:
        """One launch multiplies one kind of weights."""
        if self._weights not in (None, weights):
            self.flush()
        self._weights = weights

    def _settle(self) -> None:
        """A norm or gate that no matrix takes over is an instruction of its own."""
        waiting, self._pending = self._pending, None
        if waiting is not None:
            self._note(Kind.NORM_ALONE, waiting, None, None)

    def _note(
        self, kind: Kind, waiting: _Pending, matrix: Matrix | None, out: Tensor | None
    ) -> None:
        normed = None if waiting.before is Before.NOTHING else waiting.out
        inputs = waiting.out.shape[-1]
        given = outputs = 0
        parts: tuple[Tensor | None, ...] = (None, None, None, None)
        if matrix is not None:
            parts = matrix.codes, matrix.scales, matrix.offsets, matrix.bias
            outputs = matrix.outputs
            given = 0 if matrix.given is None else matrix.given.data_ptr()
        kept = (waiting.x, waiting.residual, waiting.weight, *parts, out, waiting.total, normed)
        read = tuple(self._products.source(x) for x in kept[:2])
        pointers = (*read, *kept[2:])
        sizes = (outputs | inputs << 32, bits_of(waiting.eps), given)
        row = words(kind, self._tiles % self._launcher.blocks, pointers, sizes)
        is_wide = matrix is not None and inputs >= 2 * matrix.weights.across
        mode = Mode.BEHIND if is_wide else Mode.BESIDE
        row[0] |= int(waiting.before) << 8 | mode << 16
        if kind is Kind.STREAM:
            self._tiles += _tiles(row)
        self._longest = max(self._longest, inputs)
        self._products.add(row, LEFT_OUT, out)
        self._products.add(row, LEFT_TOTAL, waiting.total)
        self._products.add(row, LEFT_NORMED, normed)
        self._add(row, half_of(waiting.x.dtype), *kept)

    def _add(self, row: list[int], half: int, *kept: Tensor | None) -> None:
        assert len(row) == WORDS
        self._rows.append(row)
        self._half = half
        self._kept.extend(kept)
        self.instructions += 1
        if len(self._rows) == MOST_INSTRUCTIONS:
            self.flush()


def _tiles(row: Sequence[int]) -> int:
    """How many tiles a matrix has, which blocks take in turn."""
    outputs = row[11] & 0xFFFFFFFF
    return -(-outputs // (16 if row[0] >> 16 & 255 == Mode.BEHIND else 32))


def tape_for(x: Tensor) -> Tape | None:
    """The tape that runs, if it can take an op over the one row x; None = launch it.

    What has been noted is launched first when the tape cannot take it.
    """
    tape = _get_current_dispatch_mode()
    if not isinstance(tape, Tape):
        return None
    size = x.shape[-1]
    if (
        x.dtype in (torch.bfloat16, torch.float16)
        and x.numel() == size
        and size % 8 == 0
        and size <= 2 * longest_row()
        and x.stride(-1) == 1
        and x.data_ptr() % 16 == 0
    ):
        return tape
    tape.flush()
    return None


def settle() -> None:
    """Launch what has been noted, before something that torch does not see."""
    tape = _get_current_dispatch_mode()
    if isinstance(tape, Tape):
        tape.flush()


def _same(x: Tensor, y: Tensor) -> bool:
    return x.data_ptr() == y.data_ptr() and x.numel() == y.numel()
