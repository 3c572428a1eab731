"""A device without arithmetic: each slot remembers which prefix it was computed from.

It sees what a real one sees (positions, tables, lanes, order of steps) and complains when a row
would have read anything but its own past.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as ListLike
from dataclasses import dataclass, field

import numpy as np

from inferplane.interfaces import StepResult
from inferplane.scheduling.plan import ScheduledSequence, StepPlan
from inferplane.scheduling.sequence import Sequence
from inferplane.testing.simulation.oracle import Life
from inferplane.testing.simulation.violation import Violation

__all__ = ["Faults", "ShadowDevice"]

_NAN = -1
_JUNK = -2
"""KV of a token that turned out wrong; nobody may read it."""
_ROTATING = 8
"""Of a long table, blocks compared in a step besides the newest."""


@dataclass(slots=True)
class Faults:
    """What goes wrong in one step: numbers choose among its rows."""

    failed_rows: tuple[int, ...] = ()
    silent_rows: tuple[int, ...] = ()
    """Prefill chunks whose KV is not finite, which nobody notices yet."""


@dataclass(slots=True)
class ShadowDevice:
    """KV memory of one worker epoch."""

    num_blocks: int
    block_size: int
    windows: ListLike[int | None]
    writes_first: bool
    """All writes of a step come before its reads; else the other way round."""
    life_of: Callable[[str], Life]
    drafts_of: Callable[[Life, int], list[int]] | None = None
    """Drafts the device makes after the token at a position; None = it makes none."""
    kv: list[int] = field(default_factory=list)
    version: list[int] = field(default_factory=list)
    lanes: dict[int, str] = field(default_factory=dict)
    _not_finite: dict[int, str] = field(default_factory=dict)
    """Blocks with a slot that is not finite, and who wrote it."""
    _clock: int = 0
    _sampled: set[str] = field(default_factory=set)
    """Whom the last step sampled for."""

    def __post_init__(self) -> None:
        self.kv = [0] * (self.num_blocks * self.block_size)
        self.version = [0] * self.num_blocks

    def run(self, plan: StepPlan, faults: Faults) -> StepResult:
        """Execute a step in the order of its parts."""
        for lane in plan.released:
            if self.lanes.pop(lane, None) is None:
                raise Violation(10, f"lane {lane} was released but nobody held it")
        for block in plan.zeroed:
            self._fill(block, [0] * self.block_size)
            self._not_finite.pop(block, None)
        for source, target in plan.copied:
            self._copy(source, target)
        self._check_sources(plan)
        poisoned = self._choose(plan, faults)
        if self.writes_first:
            for entry, bad in zip(plan.scheduled, poisoned, strict=True):
                self._write(entry, bad)
        failed = [not self._read(entry) for entry in plan.scheduled]
        if self.writes_first:
            self._spread(plan, failed)
        else:
            for i, entry in enumerate(plan.scheduled):
                self._write(entry, poisoned[i] or failed[i])
        return self._answer(plan, [a or b for a, b in zip(poisoned, failed, strict=True)])

    def _spread(self, plan: StepPlan, failed: list[bool]) -> None:
        """From the second layer on, a row that read something not finite writes such things.

        Whoever reads those in the same step, wherever it stands in it, fails with it.
        """
        new = [i for i, bad in enumerate(failed) if bad]
        while new:
            for i in new:
                self._write(plan.scheduled[i], True)
            new = [
                i
                for i, entry in enumerate(plan.scheduled)
                if not failed[i] and not self._read(entry)
            ]
            for i in new:
                failed[i] = True

    def _check_sources(self, plan: StepPlan) -> None:
        """A token the host does not know must come from the step just before."""
        sampled = set()
        for entry in plan.scheduled:
            sequence = entry.sequence
            real = entry.start + entry.num_tokens - len(entry.drafts)
            if real > len(sequence.token_ids) and sequence.request_id not in self._sampled:
                raise Violation(12, f"{sequence.request_id} is fed a token of no known row")
            if entry.samples:
                sampled.add(sequence.request.request_id)
        self._sampled = sampled

    def _choose(self, plan: StepPlan, faults: Faults) -> list[bool]:
        """Which rows come out wrong by themselves: rather prefills, whose blocks others share."""
        poisoned = [False] * len(plan.scheduled)
        if not faults.failed_rows and not faults.silent_rows:
            return poisoned
        sampled = [i for i, entry in enumerate(plan.scheduled) if entry.samples]
        sampled = [i for i in sampled if not plan.scheduled[i].is_decode] or sampled
        silent = [i for i, entry in enumerate(plan.scheduled) if not entry.samples]
        for numbers, rows in ((faults.failed_rows, sampled), (faults.silent_rows, silent)):
            for number in numbers:
                if rows:
                    row = rows[number % len(rows)]
                    poisoned[row] = True
                    self.life_of(plan.scheduled[row].sequence.request_id).may_fail = True
        return poisoned

    def _bind_lane(self, entry: ScheduledSequence) -> None:
        sequence = entry.sequence
        name = sequence.request.request_id
        owner = self.lanes.setdefault(sequence.lane, name)
        if owner != name:
            raise Violation(10, f"lane {sequence.lane} of {owner} is used by {sequence.request_id}")

    def _read(self, entry: ScheduledSequence) -> bool:
        """Compare the context before the step; False = it holds something not finite."""
        self._bind_lane(entry)
        life = self.life_of(entry.sequence.request.request_id)
        if not life.checked:
            life.checked = [[] for _ in self.windows]
        life.from_cache = life.read_run != entry.sequence.run
        life.read_run = entry.sequence.run
        finite = True
        for group, window in enumerate(self.windows):
            low = 0 if window is None else max(0, entry.start - window + 1)
            finite &= self._read_group(entry, life, group, low)
        if self._not_finite:
            self._check_finite(entry, life)
        return finite

    def _read_group(self, entry: ScheduledSequence, life: Life, group: int, low: int) -> bool:
        size, end, version = self.block_size, entry.start, self.version
        table, checked = entry.sequence.tables[group], life.checked[group]
        if len(checked) < len(table):
            checked += [-1] * (len(table) - len(checked))
        first, last = low // size, -(-end // size)
        blocks = range(first, last)
        tainted = self._not_finite and not self._not_finite.keys().isdisjoint(table)
        if len(blocks) > 3 * _ROTATING and not tainted:
            turn = first + (entry.start * _ROTATING) % len(blocks)
            blocks = range(turn, min(last, turn + _ROTATING))
            self._compare(entry, life, table, last - 1, end)
        finite = True
        for index in blocks:
            block = table[index]
            if checked[index] == version[block] and block:
                continue
            if self._compare(entry, life, table, index, end):
                if (index + 1) * size <= end:
                    checked[index] = version[block]
            else:
                finite = False
        return finite

    def _compare(
        self, entry: ScheduledSequence, life: Life, table: list[int], index: int, end: int
    ) -> bool:
        """Whether the block is finite; raises when it holds another past."""
        size, block = self.block_size, table[index]
        start = index * size
        count = min(size, end - start)
        found = self.kv[block * size : block * size + count]
        expected = life.chains[start : start + count]
        if block and found == expected:
            return True
        if block and _NAN in found:
            return False
        if block:
            if found[: len(expected)] == expected:
                return True  # the rest are tokens drawn after the end
            raise Violation(
                14 if life.from_cache else 12,
                f"{entry.sequence.request_id} reads a foreign slot: positions {start} to "
                f"{start + count - 1} in block {block}, step from {entry.start}",
            )
        raise Violation(
            12, f"{entry.sequence.request_id} reads position {start} through scratch block 0"
        )

    def _check_finite(self, entry: ScheduledSequence, life: Life) -> None:
        """The promise to kernels: a given block holds finite numbers, but for one's own faults."""
        for table in entry.sequence.tables:
            for block in table:
                culprit = self._not_finite.get(block)
                if culprit is None or life.may_fail:
                    continue
                if block not in entry.sequence.adopted and culprit != entry.sequence.request_id:
                    raise Violation(
                        3,
                        f"{entry.sequence.request_id} was given block {block} with numbers of "
                        f"{culprit} that are not finite",
                    )

    def _write(self, entry: ScheduledSequence, not_finite: bool) -> None:
        """Positions [start, start + num_tokens) get the chain of the tokens fed in."""
        sequence, size = entry.sequence, self.block_size
        life = self.life_of(sequence.request.request_id)
        end = entry.start + entry.num_tokens
        if end - entry.start == 1 and not not_finite and end <= len(life.chains):
            self._write_one(sequence, entry.start, life.chains[entry.start])
            return
        values = self._values(entry, life) if not not_finite else [_NAN] * entry.num_tokens
        for table in sequence.tables:
            position = entry.start
            while position < end:
                index, offset = divmod(position, size)
                count = min(size - offset, end - position)
                block = table[index]
                if not block:
                    raise Violation(3, f"{sequence.request_id} writes position {position} to 0")
                at = block * size + offset
                self.kv[at : at + count] = values[position - entry.start :][:count]
                self._clock += 1
                self.version[block] = self._clock
                if not_finite:
                    self._not_finite[block] = sequence.request_id
                position += count

    def _write_one(self, sequence: Sequence, position: int, value: int) -> None:
        """A finite decode step without drafts: the usual case."""
        index, offset = divmod(position, self.block_size)
        for table in sequence.tables:
            block = table[index]
            if not block:
                raise Violation(3, f"{sequence.request_id} writes position {position} to 0")
            self.kv[block * self.block_size + offset] = value
            self._clock += 1
            self.version[block] = self._clock

    def _values(self, entry: ScheduledSequence, life: Life) -> list[int]:
        real = entry.num_tokens - len(entry.drafts)
        known = len(life.chains)
        values = life.chains[entry.start : entry.start + real]
        values += [_JUNK] * (real - len(values))
        right = True
        for j, draft in enumerate(entry.drafts):
            position = entry.start + real + j
            right = right and position < known and life.tokens[position] == draft
            values.append(life.chains[position] if right else _JUNK)
        return values

    def _fill(self, block: int, values: list[int]) -> None:
        self.kv[block * self.block_size : (block + 1) * self.block_size] = values
        self._clock += 1
        self.version[block] = self._clock

    def _copy(self, source: int, target: int) -> None:
        size = self.block_size
        self._fill(target, self.kv[source * size : (source + 1) * size])
        if source in self._not_finite:
            self._not_finite[target] = self._not_finite[source]

    def _answer(self, plan: StepPlan, failed: list[bool]) -> StepResult:
        """Tokens drawn, drafts accepted, rows that were not finite."""
        rows: list[list[int]] = []
        plain = True
        bad: list[int] = []
        embeddings: list[float] = []
        drafts: list[list[int]] = []
        life_of = self.life_of
        for entry, row_failed in zip(plan.scheduled, failed, strict=True):
            request = entry.sequence.request
            if request.pooling:
                embeddings.append(float("nan") if row_failed else 1.0)
            if not entry.samples:
                continue
            if row_failed:
                bad.append(len(rows))
            life = life_of(request.request_id)
            if entry.drafts:
                row = _draw(entry, life)
                plain = False
            else:
                end = entry.start + entry.num_tokens
                row = [life.tokens[end] if end < len(life.tokens) else 0]
            rows.append(row)
            if self.drafts_of is not None:
                first = entry.start + entry.num_tokens - len(entry.drafts)
                drafts.append(self.drafts_of(life, first + len(row)))
        return StepResult(
            np.array(rows, np.int32) if plain and rows else _ragged(rows),
            embeddings=np.array(embeddings, np.float32).reshape(-1, 1) if embeddings else None,
            failed=np.array(bad, np.int32) if bad else None,
            next_drafts=None if self.drafts_of is None else _ragged(drafts),
        )


def _draw(entry: ScheduledSequence, life: Life) -> list[int]:
    """Accepted drafts and the token after them."""
    position = entry.start + entry.num_tokens - len(entry.drafts)
    row = []
    for draft in entry.drafts:
        if position >= len(life.tokens) or life.tokens[position] != draft:
            break
        row.append(draft)
        position += 1
    row.append(life.tokens[position] if position < len(life.tokens) else 0)
    return row


def _ragged(rows: list[list[int]]) -> np.ndarray[tuple[int, int], np.dtype[np.int32]]:
    width = max([1, *map(len, rows)])
    padded = [row + [-1] * (width - len(row)) for row in rows]
    return np.array(padded, np.int32).reshape(len(rows), width)
