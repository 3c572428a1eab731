"""A plan of the scheduler becomes the arrays of a StepBatch.

State that lasts longer than a step lives in lanes; per sequence and step there is one short loop.
Legend: T tokens, S sequences, R sampled rows, P table width.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from inferplane.engine.grammars import Grammars
from inferplane.engine.lanes import Lanes, gather_rows
from inferplane.engine.media_rows import media_rows
from inferplane.engine.sampling_rows import GatheredRows, SamplingRows
from inferplane.interfaces import Array, KVPlan, SamplerCaps, SamplingBatch, StepBatch
from inferplane.scheduling.plan import ScheduledSequence, StepPlan

__all__ = ["BatchBuilder", "BuiltStep", "Layout"]

_ON_DEVICE = -1
"""Stands for a token whose value only the device knows."""


@dataclass(frozen=True, slots=True)
class BuiltStep:
    """What the device runs, and how the host draws from the logits of `batch.host_rows`."""

    batch: StepBatch
    host_sampling: SamplingBatch | None


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the tokens of a step lie; arrays as in StepBatch."""

    lanes: list[int]
    lanes_S: Array
    lanes_T: Array
    query_start: Array
    positions_T: Array
    seq_lens_S: Array
    num_decodes: int
    all_sampled: Array | None
    """0..S-1 when every sequence samples after its single token."""


class BatchBuilder:
    """Makes batches for one executor. Arrays of a batch may be those of another: never write."""

    def __init__(
        self,
        kv: KVPlan,
        caps: SamplerCaps,
        num_lanes: int,
        max_len: int,
        vocab_size: int,
        grammars: Grammars | None = None,
        image_token: int | None = None,
    ) -> None:
        """`image_token` None: the model takes no pictures."""
        self.block_size = kv.block_size
        max_blocks = -(-max_len // kv.block_size) + 2  # lookahead of drafts may pass the end
        self.lanes = Lanes(num_lanes, max_blocks, kv.groups)
        self.rows = SamplingRows(caps, num_lanes, vocab_size, grammars)
        self._row_of_lane = np.full(num_lanes, -1, np.int32)
        """Row of the previous batch whose token is on the device."""
        self._to_release: list[int] = []
        self._image_token = image_token
        self._steady: Layout | None = None
        """Of the step before, if all it did was decode plainly."""

    def release(self, lanes: Iterable[int]) -> None:
        """Tell the executor with the next batch that somebody else's use of these lanes ended."""
        self._to_release += lanes

    def build(self, plan: StepPlan) -> BuiltStep:
        """The arrays of one step. RuntimeError when a token is needed that nobody has drawn."""
        items = plan.scheduled
        lanes, ids, width, special = self._read(plan)
        token_ids_T = np.array(ids, np.int32)
        layout, repeats = self._layout(items, lanes, len(ids), bool(special))
        sources_T = self._sources(token_ids_T, layout.lanes_T, _ON_DEVICE in ids)
        drafts_S = _drafts(items, special)
        sampled, gathered = self._sampling(items, lanes, layout, drafts_S)
        if not repeats or gathered is None or gathered.host_rows is not None:
            self._remember_rows(layout.lanes_S, sampled, gathered)
        scored, num_scored_logprobs = _scored(items, special, layout.query_start)
        lanes_S, lanes_T, positions_T = layout.lanes_S, layout.lanes_T, layout.positions_T
        batch = StepBatch(
            step=plan.step,
            num_decodes=layout.num_decodes,
            token_ids=token_ids_T,
            token_source=sources_T,
            positions=positions_T,
            query_start=layout.query_start,
            seq_lens=layout.seq_lens_S,
            lanes=lanes_S,
            block_tables=tuple(gather_rows(t, lanes_S, width) for t in self.lanes.tables),
            slots=tuple(self._slots(t, lanes_T, positions_T) for t in self.lanes.tables),
            sampled=sampled,
            sampling=None if gathered is None else gathered.device,
            drafts=drafts_S,
            host_rows=None if gathered is None else gathered.host_rows,
            scored=scored,
            num_scored_logprobs=num_scored_logprobs,
            embedded=_embedded(items, special),
            segments=_segments(items, special, layout.query_start),
            media=()
            if self._image_token is None
            else media_rows(items, special, layout.query_start, self._image_token),
            zeroed=np.array(plan.zeroed, np.int32) if plan.zeroed else None,
            copied=np.array(plan.copied, np.int32) if plan.copied else None,
            released=self._released(plan),
        )
        return BuiltStep(batch, None if gathered is None else gathered.host)

    def _released(self, plan: StepPlan) -> Array | None:
        lanes = self._to_release + plan.released
        self._to_release = []
        return np.array(lanes, np.int32) if lanes else None

    def _read(self, plan: StepPlan) -> tuple[list[int], list[int], int, list[int]]:
        """Lanes, input tokens, the widest table and the items that are no plain decodes.

        The only loop over sequences and tokens.
        """
        owners, sync = self.lanes.owners, self.lanes.sync
        for lane in plan.released:
            owners[lane] = None
        entering = {*plan.new, *plan.resumed}
        lanes: list[int] = []
        ids: list[int] = []
        special: list[int] = []
        width = 1
        for index, item in enumerate(plan.scheduled):
            sequence = item.sequence
            lane = sequence.lane
            if owners[lane] is not sequence or (entering and sequence.request_id in entering):
                self.lanes.enter(lane, sequence)
                self.rows.enter(lane, sequence)
                self._steady = None
            blocks = sync(lane, sequence)
            if blocks > width:
                width = blocks
            lanes.append(lane)
            if item.plain:
                known = sequence.token_ids
                ids.append(known[item.start] if item.start < len(known) else _ON_DEVICE)
            else:
                special.append(index)
                _append_tokens(item, ids)
        return lanes, ids, width, special

    def _layout(
        self, items: list[ScheduledSequence], lanes: list[int], num_tokens: int, special: bool
    ) -> tuple[Layout, bool]:
        """Where the tokens lie, and whether this step repeats the one before it, one token on.

        It does when the same lanes decode plainly and no sequence entered one of them; such steps
        are nearly all, and cost little.
        """
        before = self._steady
        if (
            before is not None
            and not special
            and lanes == before.lanes
            and items[-1].start == before.seq_lens_S[-1]
        ):
            layout = Layout(
                lanes,
                before.lanes_S,
                before.lanes_S,
                before.query_start,
                before.seq_lens_S,
                before.seq_lens_S + 1,
                before.num_decodes,
                before.all_sampled,
            )
        else:
            before, layout = None, _lay_out(items, lanes, num_tokens)
        self._steady = None if special else layout
        return layout, before is not None

    def _remember_rows(self, lanes_S: Array, sampled: Array, gathered: GatheredRows | None) -> None:
        """Which rows of this step the next one may take its inputs from."""
        self._row_of_lane.fill(-1)
        self._row_of_lane[lanes_S[sampled]] = np.arange(len(sampled), dtype=np.int32)
        if gathered is not None and gathered.host_rows is not None:
            self._row_of_lane[lanes_S[sampled[gathered.host_rows]]] = -1

    def _sources(self, token_ids_T: Array, lanes_T: Array, any_unknown: bool) -> Array:
        """i32[T]: rows of the previous step that hold the inputs unknown to the host."""
        sources_T = np.full(len(token_ids_T), -1, np.int32)
        if any_unknown:
            unknown = token_ids_T == _ON_DEVICE
            rows = self._row_of_lane[lanes_T[unknown]]
            if rows.min() < 0:
                raise RuntimeError("a sequence was planned before its last token was drawn")
            sources_T[unknown] = rows
            token_ids_T[unknown] = 0
        return sources_T

    def _sampling(
        self,
        items: list[ScheduledSequence],
        lanes: list[int],
        layout: Layout,
        drafts_S: Array | None,
    ) -> tuple[Array, GatheredRows | None]:
        if layout.all_sampled is not None:
            return layout.all_sampled, self.rows.gather(items, lanes, layout.seq_lens_S)
        chosen = [i for i, item in enumerate(items) if item.samples]
        sampled = np.array(chosen, np.int32)
        if not chosen:
            return sampled, None
        positions_R = layout.seq_lens_S[sampled]
        if drafts_S is not None:
            positions_R = positions_R - drafts_S[sampled]
        if len(chosen) < len(items):
            items, lanes = [items[i] for i in chosen], [lanes[i] for i in chosen]
        return sampled, self.rows.gather(items, lanes, positions_R)

    def _slots(self, table: Array, lanes_T: Array, positions_T: Array) -> Array:
        blocks_T = table[lanes_T, positions_T // self.block_size]
        slots_T: Array = blocks_T * self.block_size + positions_T % self.block_size
        return slots_T


def _lay_out(items: list[ScheduledSequence], lanes: list[int], num_tokens: int) -> Layout:
    num_seqs = len(items)
    num_decodes = sum(item.is_decode for item in items)
    lanes_S = np.array(lanes, np.int32)
    starts_S = np.array([item.start for item in items], np.int32)
    if num_tokens == num_decodes:  # one token each, all of them sampled
        query_start = np.arange(num_seqs + 1, dtype=np.int32)
        sampled, seq_lens_S = query_start[:-1], starts_S + 1
        return Layout(
            lanes, lanes_S, lanes_S, query_start, starts_S, seq_lens_S, num_decodes, sampled
        )
    lens_S = np.array([item.num_tokens for item in items], np.int32)
    query_start = np.zeros(num_seqs + 1, np.int32)
    np.cumsum(lens_S, out=query_start[1:])
    positions_T = np.arange(num_tokens, dtype=np.int32)
    positions_T += np.repeat(starts_S - query_start[:-1], lens_S)
    lanes_T = np.repeat(lanes_S, lens_S)
    return Layout(
        lanes, lanes_S, lanes_T, query_start, positions_T, starts_S + lens_S, num_decodes, None
    )


def _append_tokens(item: ScheduledSequence, ids: list[int]) -> None:
    drafts = item.drafts
    plain = item.num_tokens - len(drafts)
    known = item.sequence.token_ids[item.start : item.start + plain]
    ids += known
    if len(known) < plain:
        ids.append(_ON_DEVICE)
    ids += [max(token, 0) for token in drafts]  # a placeholder's row is computed and ignored


def _drafts(items: list[ScheduledSequence], special: list[int]) -> Array | None:
    if not any(items[i].drafts for i in special):
        return None
    return np.array([len(item.drafts) for item in items], np.int32)


def _scored(
    items: list[ScheduledSequence], special: list[int], query_start: Array
) -> tuple[Array | None, int]:
    """Rows whose next prompt token is to be scored, and the most alternatives asked."""
    parts, most = [], 0
    for i in special:
        item = items[i]
        asked = item.sequence.request.sampling.prompt_logprobs
        if asked is None or item.sequence.num_output_tokens:
            continue
        prompt = item.sequence.request.prompt_ids
        ids = np.array(prompt[item.start + 1 : item.start + item.num_tokens + 1], np.int32)
        rows = query_start[i] + np.arange(len(ids), dtype=np.int32)
        parts.append(np.stack((rows, ids), axis=1))
        most = max(most, asked)
    if not any(len(part) for part in parts):
        return None, 0
    return np.concatenate(parts), most


def _embedded(items: list[ScheduledSequence], special: list[int]) -> Array | None:
    rows = [i for i in special if items[i].sequence.request.pooling]
    return np.array(rows, np.int32) if rows else None


def _segments(
    items: list[ScheduledSequence], special: list[int], query_start: Array
) -> Array | None:
    """i32[T]: 1 in the second text of each pair; whole texts are never cut over steps."""
    pairs = [i for i in special if items[i].sequence.request.second_start]
    if not pairs:
        return None
    segments = np.zeros(query_start[-1], np.int32)
    for i in pairs:
        first = query_start[i] + items[i].sequence.request.second_start
        segments[first : query_start[i + 1]] = 1
    return segments
