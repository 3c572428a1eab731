"""How each sampled row draws: parameters kept per lane, gathered per step.

A row whose parameters the device's sampler does not obey becomes a host row: the device is told to
draw greedily and its logits come back for `sampling.host_sampler`. Legend: R sampled rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from inferplane.engine.admission import beyond_device
from inferplane.engine.grammars import Grammars
from inferplane.engine.row_extras import RowExtras, row_extras
from inferplane.interfaces import Array, Ragged, SamplerCaps, SamplingBatch
from inferplane.sampling_params import SamplingParams
from inferplane.scheduling.plan import ScheduledSequence
from inferplane.scheduling.sequence import Sequence

__all__ = ["GatheredRows", "SamplingRows", "needs_last_token"]


def needs_last_token(params: SamplingParams, caps: SamplerCaps) -> bool:
    """Whether drawing a token takes host work that depends on the token before it."""
    return (
        params.penalised
        or params.grammar is not None
        or params.thinking is not None
        or any(len(word) > 1 for word in params.bad_words_ids)
        or bool(beyond_device(params, caps))
    )


@dataclass(frozen=True, slots=True)
class GatheredRows:
    """Sampling of one step: what the device draws and what the host draws."""

    device: SamplingBatch
    host_rows: Array | None = None
    """i32 rows of `sampled` drawn on the host."""
    host: SamplingBatch | None = None
    """Their parameters, in that order."""


@dataclass(frozen=True, slots=True)
class _Row:
    index: int
    extras: RowExtras
    token_ids: list[int]
    position: int


class SamplingRows:
    """Sampling parameters of every lane, as arrays."""

    def __init__(
        self,
        caps: SamplerCaps,
        num_lanes: int,
        vocab_size: int,
        grammars: Grammars | None = None,
    ) -> None:
        self.caps = caps
        self.grammars = grammars
        self.vocab_size = vocab_size
        self._columns: tuple[Array, ...] = (  # temperature, top_k, top_p, min_p, seed, num_logprobs
            np.zeros(num_lanes, np.float32),
            np.zeros(num_lanes, np.int32),
            np.ones(num_lanes, np.float32),
            np.zeros(num_lanes, np.float32),
            np.zeros(num_lanes, np.uint64),
            np.full(num_lanes, -1, np.int32),
        )
        self._extras: list[RowExtras | None] = [None] * num_lanes
        self._lanes: list[int] = []
        self._gathered: tuple[Array, ...] = ()
        self._any_extras = False

    def enter(self, lane: int, sequence: Sequence) -> None:
        """A sequence takes the lane."""
        params = sequence.request.sampling
        host = bool(beyond_device(params, self.caps))
        extras = self._extras[lane] = row_extras(sequence, host, self.vocab_size)
        if params.grammar is not None and extras is not None and self.grammars is not None:
            extras.grammar = self.grammars.state_of(sequence.request_id)
        values = (
            0.0 if params.greedy else params.temperature,
            min(params.top_k, self.vocab_size),
            params.top_p,
            params.min_p,
            (params.seed or 0) % 2**64,
            -1 if params.logprobs is None else params.logprobs,
        )
        for column, value in zip(self._columns, values, strict=True):
            column[lane] = value
        self._lanes = []  # what was gathered for this lane is stale

    def gather(
        self, items: list[ScheduledSequence], lanes: list[int], positions_R: Array
    ) -> GatheredRows:
        """Rows of the sampled `items`, which hold `lanes`; `positions_R` = index of each draw."""
        if lanes != self._lanes:  # most steps run the sequences of the step before
            at = np.array(lanes, np.intp)
            self._gathered = tuple(column[at] for column in self._columns)
            self._lanes = lanes
            self._any_extras = any(self._extras[lane] is not None for lane in lanes)
        positions = positions_R.astype(np.uint64)
        if not self._any_extras:
            return GatheredRows(_batch(self._gathered, positions))
        rows = [
            _Row(i, extras, items[i].sequence.token_ids, position)
            for i, (lane, position) in enumerate(zip(lanes, positions_R.tolist(), strict=True))
            if (extras := self._extras[lane]) is not None
        ]
        on_host = [row for row in rows if row.extras.host]
        if not on_host:
            return GatheredRows(self._with_extras(_batch(self._gathered, positions), rows))
        host_rows = np.array([row.index for row in on_host], np.int32)
        host = _batch(tuple(a[host_rows] for a in self._gathered), positions[host_rows])
        moved = [_Row(i, row.extras, row.token_ids, row.position) for i, row in enumerate(on_host)]
        device = _batch(_neutral(self._gathered, host_rows), positions)
        stay = [row for row in rows if not row.extras.host]
        return GatheredRows(
            self._with_extras(device, stay), host_rows, self._with_extras(host, moved)
        )

    def _with_extras(self, base: SamplingBatch, rows: list[_Row]) -> SamplingBatch:
        size = len(base.temperature)
        penalised = [(row, tokens) for row in rows if (tokens := row.extras.seen) is not None]
        masked = [
            (row.index, mask)
            for row in rows
            if (mask := row.extras.mask_after(row.token_ids)) is not None
        ]
        penalties = seen = bitmask = None
        if penalised:
            penalties = np.tile(np.array([0.0, 0.0, 1.0], np.float32), (size, 1))
            for row, _ in penalised:
                penalties[row.index] = row.extras.penalties
            counted = ((row.index, *tokens.arrays(row.token_ids)) for row, tokens in penalised)
            seen = _ragged(size, counted, np.int32)
        if masked:
            bitmask = np.full((size, -(-self.vocab_size // 32)), 0xFFFFFFFF, np.uint32)
            for index, mask in masked:
                bitmask[index] = mask
        biased = [(row.index, *row.extras.bias(row.token_ids, row.position)) for row in rows]
        bias = None
        if any(len(ids) for _, ids, _ in biased):
            bias = _ragged(size, biased, np.float32)
        return SamplingBatch(
            base.temperature,
            base.top_k,
            base.top_p,
            base.min_p,
            base.seed,
            base.position,
            base.num_logprobs,
            penalties,
            seen,
            bias,
            bitmask,
        )


def _batch(columns: tuple[Array, ...], positions: Array) -> SamplingBatch:
    temperature, top_k, top_p, min_p, seed, num_logprobs = columns
    return SamplingBatch(temperature, top_k, top_p, min_p, seed, positions, num_logprobs)


def _neutral(columns: tuple[Array, ...], rows: Array) -> tuple[Array, ...]:
    """Copies in which `rows` draw greedily and ask for nothing."""
    copies = tuple(column.copy() for column in columns)
    for column, value in zip(copies, (0.0, 0, 1.0, 0.0, 0, -1), strict=True):
        column[rows] = value
    return copies


def _ragged(size: int, parts: Iterable[tuple[int, Array, Array]], kind: type[np.generic]) -> Ragged:
    """Rows 0..size; those without a part are empty. `parts` come in row order."""
    counts = np.zeros(size + 1, np.int32)
    ids, values = [np.zeros(0, np.int32)], [np.zeros(0, kind)]
    for index, row_ids, row_values in parts:
        counts[index + 1] = len(row_ids)
        ids.append(row_ids)
        values.append(row_values)
    return Ragged(np.cumsum(counts, dtype=np.int32), np.concatenate(ids), np.concatenate(values))
