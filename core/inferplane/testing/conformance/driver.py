"""A hand-made engine: it builds every StepBatch itself, so that the kit depends on no scheduler.

Tests say which sequence does what in a step; blocks, tables, lanes and sampling arrays follow.
Legend: T tokens, S sequences, R sampled rows, P table width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from inferplane.interfaces import (
    Array,
    Capabilities,
    Executor,
    KVPlan,
    Pending,
    ShapePolicy,
    StepBatch,
    StepResult,
    StepShape,
)
from inferplane.testing.conformance.drawing import Draw, DrawingRow, sampling_batch

__all__ = ["Driver", "Live", "Row", "Work"]


@dataclass(eq=False)
class Live:
    """A sequence while the driver runs it."""

    tokens: list[int]
    """Prompt, then everything drawn or forced."""
    num_prompt: int
    lane: int
    tables: list[list[int]]
    """Block ids, one list a KV group."""
    computed: int = 0
    """Tokens whose KV is in the cache."""


@dataclass(frozen=True)
class Work:
    """What one sequence does in one step: its next `count` tokens."""

    live: Live
    count: int
    draw: Draw | None = None
    """None: no token is wanted."""
    source: int = -1
    """Row of the previous step whose drawn token is the last input, not yet known here."""
    drafts: int = 0
    """How many of the last tokens are guesses."""
    host: bool = False
    """The logits are wanted; the token is drawn here."""
    scored: tuple[tuple[int, int], ...] = ()
    """(place in the query, id) whose log-probability is wanted."""


@dataclass
class Row:
    """What a step yielded for one Work."""

    token_ids: list[int] = field(default_factory=list)
    failed: bool = False
    logits: Array | None = None
    """f32[V]"""
    logprobs: tuple[Array, Array] | None = None
    """(values, ids)"""
    scores: list[float] = field(default_factory=list)


class Driver:
    """Runs one started executor within its limits. One thread, one model."""

    def __init__(
        self,
        executor: Executor,
        kv: KVPlan,
        caps: Capabilities,
        policy: ShapePolicy,
        max_num_seqs: int,
        max_step_tokens: int,
        vocab_size: int,
    ) -> None:
        self.executor = executor
        self.kv = kv
        self.caps = caps
        self.policy = policy
        limits = caps.limits
        self.max_num_seqs = min(max_num_seqs, limits.max_num_seqs or max_num_seqs)
        self.max_step_tokens = min(max_step_tokens, limits.max_step_tokens or max_step_tokens)
        self.vocab_size = vocab_size
        self.step_number = 0
        self.free_blocks = list(range(1, kv.num_blocks))
        self.free_lanes = list(range(self.max_num_seqs))
        self._released: list[int] = []

    def take_over(self, old: Driver) -> None:
        """Go on after another driver of the same executor: all its lanes have ended."""
        self.step_number = old.step_number
        held = set(range(self.max_num_seqs)) - set(old.free_lanes)
        self._released = sorted(held | set(old._released))

    def begin(self, prompt: Sequence[int], blocks: Sequence[int] | None = None) -> Live:
        """A sequence with a lane; `blocks` are taken in that order before any others."""
        if blocks is not None:
            rest = [b for b in self.free_blocks if b not in blocks]
            self.free_blocks = [*blocks, *rest]
        tables: list[list[int]] = [[] for _ in self.kv.groups]
        return Live(list(prompt), len(prompt), self.free_lanes.pop(0), tables)

    def fork(self, live: Live, keep: int) -> tuple[Live, list[tuple[int, int]]]:
        """A second sequence with the first `keep` computed tokens; pairs of blocks to copy.

        Full blocks are shared, the last partial one must be copied before either goes on.
        """
        size, pairs = self.kv.block_size, []
        twin = Live(live.tokens[:keep], keep, self.free_lanes.pop(0), [], keep)
        for table in live.tables:
            shared = list(table[: keep // size])
            if keep % size:
                target = self.free_blocks.pop(0)
                pairs.append((table[keep // size], target))
                shared.append(target)
            twin.tables.append(shared)
        return twin, pairs

    def end(self, *lives: Live, recycle: bool = True) -> None:
        """Give lanes and blocks back; shared blocks must be ended once, with `recycle`."""
        for live in lives:
            self.free_lanes.append(live.lane)
            self._released.append(live.lane)
            for table in live.tables if recycle else ():
                self.free_blocks += [b for b in table if b and b not in self.free_blocks]
            live.tables = [[] for _ in self.kv.groups]

    def step(
        self,
        works: Sequence[Work],
        zeroed: Iterable[int] = (),
        copied: Iterable[tuple[int, int]] = (),
    ) -> list[Row]:
        """One step, in the order given but decodes first; rows as in `works`."""
        order = sorted(works, key=lambda w: w.live.computed < w.live.num_prompt)
        batch = self.build(order, list(zeroed), list(copied))
        result = self.executor.execute(batch).result()
        rows = self._rows(order, batch, result)
        for work in order:
            self._advance(work)
        return [rows[order.index(work)] for work in works]

    def enqueue(self, works: Sequence[Work]) -> Pending[StepResult]:
        """A step whose result is not awaited; the sequences advance at once."""
        pending = self.executor.execute(self.build(works, [], []))
        for work in works:
            self._advance(work)
        return pending

    def shape(self, works: Sequence[Work]) -> StepShape:
        """The size of a step."""
        counts = [work.count for work in works]
        lens = [work.live.computed + work.count for work in works]
        decodes = sum(w.live.computed >= w.live.num_prompt for w in works)
        blocks = sum(-(-n // self.kv.block_size) for n in lens)
        return StepShape(sum(counts), len(works), decodes, max(counts), max(lens), blocks)

    def admits(self, works: Sequence[Work]) -> bool:
        """Whether limits and shape policy allow this step."""
        limits, shape = self.caps.limits, self.shape(works)
        prefills = shape.num_seqs - shape.num_decodes
        return (
            shape.num_tokens <= self.max_step_tokens
            and shape.num_seqs <= self.max_num_seqs
            and (limits.mix_prefill_decode or prefills in (0, shape.num_seqs))
            and (limits.max_prefill_seqs is None or prefills <= limits.max_prefill_seqs)
            and self.policy.admits(shape)
        )

    def prefill(self, live: Live, draw: Draw | None = None, chunk: int = 0) -> Row:
        """Compute everything not yet computed, in chunks if asked; the row of the last step."""
        row = Row()
        while live.computed < len(live.tokens):
            left = len(live.tokens) - live.computed
            count = min(left, chunk or left, self.max_step_tokens)
            last = count == left
            row = self.step([Work(live, count, draw if last else None)])[0]
        return row

    def generate(self, prompt: Sequence[int], count: int, draw: Draw | None = None) -> list[int]:
        """`count` tokens after `prompt`, alone, one step each; greedy unless `draw` says how."""
        live = self.begin(prompt)
        draw = draw or Draw()
        row = self.prefill(live, draw)
        for _ in range(count - 1):
            live.tokens.append(row.token_ids[0])
            row = self.step([Work(live, 1, draw)])[0]
        out = [*live.tokens[len(prompt) :], row.token_ids[0]]
        self.end(live)
        return out

    def build(
        self, works: Sequence[Work], zeroed: list[int], copied: list[tuple[int, int]]
    ) -> StepBatch:
        """The arrays of one step; takes the blocks it needs."""
        for work in works:
            self._extend(work)
        counts = np.array([work.count for work in works], np.int32)
        starts = np.array([work.live.computed for work in works], np.int32)
        query_start = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
        owner_T = np.repeat(np.arange(len(works)), counts)
        positions_T = np.arange(query_start[-1], dtype=np.int32) - query_start[owner_T]
        positions_T += starts[owner_T]
        sampled = np.array([i for i, w in enumerate(works) if w.draw or w.host], np.int32)
        drawing = [works[i] for i in sampled]
        source_T = np.full(len(positions_T), -1, np.int32)
        source_T[query_start[1:] - 1] = [work.source for work in works]
        host = [row for row, work in enumerate(drawing) if work.host]
        released, self._released = self._released, []
        self.step_number += 1
        return StepBatch(
            step=self.step_number,
            num_decodes=sum(w.live.computed >= w.live.num_prompt for w in works),
            token_ids=np.array(_inputs(works), np.int32),
            token_source=source_T,
            positions=positions_T.astype(np.int32),
            query_start=query_start,
            seq_lens=starts + counts,
            lanes=np.array([work.live.lane for work in works], np.int32),
            block_tables=tuple(self._tables(works)),
            slots=tuple(self._slots(works, owner_T, positions_T)),
            sampled=sampled,
            sampling=sampling_batch([_drawing_row(work) for work in drawing]),
            drafts=_some([work.drafts for work in works]),
            host_rows=np.array(host, np.int32) if host else None,
            scored=self._scored(works, query_start),
            zeroed=np.array(zeroed, np.int32) if zeroed else None,
            copied=np.array(copied, np.int32) if copied else None,
            released=np.array(released, np.int32) if released else None,
        )

    def _extend(self, work: Work) -> None:
        needed = -(-(work.live.computed + work.count) // self.kv.block_size)
        for table in work.live.tables:
            while len(table) < needed:
                table.append(self.free_blocks.pop(0))

    def _advance(self, work: Work) -> None:
        """Count the tokens as computed, and let go of blocks wholly outside a window."""
        live = work.live
        live.computed += work.count - work.drafts
        for table, group in zip(live.tables, self.kv.groups, strict=True):
            outside = max(0, live.computed + 1 - (group.window or live.computed + 1))
            for place in range(outside // self.kv.block_size):
                if table[place]:
                    self.free_blocks.append(table[place])
                    table[place] = 0

    def _tables(self, works: Sequence[Work]) -> Iterable[Array]:
        for group in range(len(self.kv.groups)):
            tables = [work.live.tables[group] for work in works]
            out = np.zeros((len(works), max(map(len, tables))), np.int32)
            for row, table in enumerate(tables):
                out[row, : len(table)] = table
            yield out

    def _slots(self, works: Sequence[Work], owner_T: Array, positions_T: Array) -> Iterable[Array]:
        size = self.kv.block_size
        for table_SP in self._tables(works):
            blocks_T = table_SP[owner_T, positions_T // size]
            yield (blocks_T * size + positions_T % size).astype(np.int32)

    def _scored(self, works: Sequence[Work], query_start: Array) -> Array | None:
        pairs = [
            (int(start) + place, token)
            for work, start in zip(works, query_start, strict=False)
            for place, token in work.scored
        ]
        return np.array(pairs, np.int32) if pairs else None

    def _rows(self, works: Sequence[Work], batch: StepBatch, result: StepResult) -> list[Row]:
        rows = [Row() for _ in works]
        failed = set(() if result.failed is None else result.failed.tolist())
        assert result.token_ids.shape[0] == len(batch.sampled), "one row for each sampled sequence"
        for number, place in enumerate(batch.sampled.tolist()):
            row = rows[place]
            row.token_ids = [int(t) for t in result.token_ids[number] if t >= 0]
            row.failed = number in failed
            if result.logprobs is not None:
                row.logprobs = (result.logprobs.values[number], result.logprobs.ids[number])
        if batch.host_rows is not None:
            assert result.logits is not None, "host_rows were asked for, no logits came back"
            for number, logits in zip(batch.host_rows.tolist(), result.logits, strict=True):
                rows[int(batch.sampled[number])].logits = logits
        if batch.scored is not None:
            assert result.scores is not None, "scored tokens were asked for, no scores came back"
            owners = np.repeat(np.arange(len(works)), [len(work.scored) for work in works])
            for owner, values in zip(owners.tolist(), result.scores.values, strict=True):
                rows[owner].scores.append(float(values[0]))
        return rows


def _inputs(works: Sequence[Work]) -> list[int]:
    """Token ids; one that only the device knows is 0 here."""
    ids: list[int] = []
    for work in works:
        live = work.live
        known = live.tokens[live.computed : live.computed + work.count]
        ids += [*known, *[0] * (work.count - len(known))]
    return ids


def _drawing_row(work: Work) -> DrawingRow:
    live, position = work.live, work.live.computed + work.count - work.drafts
    return DrawingRow(work.draw or Draw(), live.tokens[:position], live.num_prompt, position)


def _some(values: list[int]) -> Array | None:
    return np.array(values, np.int32) if any(values) else None
