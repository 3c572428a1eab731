"""What must hold after every call, recounted from outside.

The light checks run each time; those marked thorough walk whole tables and run now and then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from inferplane.interfaces import StepResult
from inferplane.scheduling.block_table import blocks_for
from inferplane.scheduling.plan import ScheduledSequence, StepPlan
from inferplane.scheduling.scheduler import Scheduler
from inferplane.scheduling.sequence import Sequence, SequenceState
from inferplane.testing.simulation.oracle import Life
from inferplane.testing.simulation.violation import Violation

__all__ = [
    "blocks_of_failed",
    "check_blocks",
    "check_free_list",
    "check_index",
    "check_plan",
    "check_requests",
    "check_waiting",
]

_WAITING = (
    SequenceState.WAITING,
    SequenceState.PREEMPTED,
    SequenceState.WAITING_GRAMMAR,
    SequenceState.WAITING_INPUT,
    SequenceState.WAITING_REMOTE,
)
"""A tuple, the usual ones first: comparing identities is faster than the hash of an enumeration."""


def check_blocks(scheduler: Scheduler) -> None:
    """INV-1, 2 and 4: holders recounted from tables and fences."""
    pool = scheduler.blocks.pool
    holders = pool.fenced_blocks()
    for sequence in scheduler.running:
        for table in sequence.tables:
            holders += table
    refs = pool.refs
    held = set(holders)
    held.discard(0)
    if len(held) + holders.count(0) == len(holders):  # nothing is shared: quicker than to count
        wrong = [refs[block] for block in held].count(1) != len(held)
    else:
        count = Counter(holders)
        wrong = any([refs[block] != count[block] for block in held])
    if wrong:
        count = Counter(holders)
        block = next(block for block in held if refs[block] != count[block])
        raise Violation(2, f"block {block}: refs {refs[block]}, holders {count[block]}")
    free = len(pool.free)
    if free + len(held) != pool.usable:
        raise Violation(1, f"{free} free + {len(held)} held blocks of {pool.usable}")
    if held and not scheduler.sequences and not scheduler.num_in_flight:
        raise Violation(4, f"idle, but {len(held)} blocks are held")


def check_free_list(scheduler: Scheduler) -> None:
    """INV-3 and 26, thorough: the list walked, gauges recounted."""
    blocks = scheduler.blocks
    refs, order = blocks.pool.refs, blocks.free_order()
    if not len(order) == blocks.num_free == len(frozenset(order)):
        raise Violation(3, "the free list repeats a block")
    if 0 in order or refs[0]:
        raise Violation(3, "block 0 is free or held")
    for block in order:
        if refs[block]:
            raise Violation(3, f"block {block} is free and has {refs[block]} holders")
    for sequence in scheduler.running:
        owned = sum(block != 0 for table in sequence.tables for block in table)
        if owned != sequence.owned:
            raise Violation(26, f"{sequence.request_id} owns {owned} blocks")
    promised = sum(max(0, s.reserve - s.owned) for s in scheduler.running)
    if promised != blocks.num_promised:
        raise Violation(26, f"{promised} blocks are promised, counted {blocks.num_promised}")


def check_index(scheduler: Scheduler) -> None:
    """INV-13 and 15, thorough: digests and blocks point at each other, and nothing else does."""
    index = scheduler.blocks.cache.index
    count: Counter[bytes] = Counter()
    for block, key in enumerate(index.keys):
        if key is not None:
            count[key] += 1
            if block not in index.copies(key):
                raise Violation(15, f"block {block} is lost to its digest")
    if len(count) != len(index):
        raise Violation(15, f"{len(index)} digests for {len(count)} contents")
    for key, copies in count.items():
        if len(index.copies(key)) != copies:
            raise Violation(15, "a digest has a stale block")
    for block in index.pending:
        if index.keys[block] is None:
            raise Violation(13, f"pending block {block} has no digest")


def check_requests(scheduler: Scheduler, lives: Mapping[str, Life]) -> None:
    """INV-6, 7 and 8 for what runs, 9 in numbers."""
    size = scheduler.blocks.block_size
    running = scheduler.running
    if len(running) > scheduler.limits.max_active:
        raise Violation(8, f"{len(running)} run")
    if len(running) + scheduler.num_waiting != len(scheduler.sequences):
        raise Violation(9, "a request is in no queue or in two")
    runs = SequenceState.RUNNING
    lanes = set()
    for sequence in running:
        if sequence.state is not runs:
            raise Violation(9, f"{sequence.request_id} runs as {sequence.state}")
        lanes.add(sequence.lane)
        computed, room = sequence.computed, sequence.room
        for table in sequence.tables:
            if len(table) * size != room:
                _blame(sequence, size)
        known = len(sequence.token_ids)
        if (
            not sequence.proven <= computed <= room < computed + size + 9
            or computed > known + sequence.placeholders + 8
        ):
            _blame(sequence, size)
        life = lives[sequence.request.request_id]
        if (
            computed < life.last_computed
            and computed != known - 1
            and life.last_run == sequence.run
        ):
            raise Violation(
                7, f"{sequence.request_id}: fell from {life.last_computed} to {computed}"
            )
        life.last_computed, life.last_run = computed, sequence.run
    if len(lanes) != len(running):
        raise Violation(8, "two sequences share a lane")


def check_waiting(scheduler: Scheduler) -> None:
    """INV-9, 10 and 20, thorough: what waits is in order and holds nothing."""
    tokens = 0
    before: tuple[float, ...] = ()
    for sequence in scheduler.waiting:
        if before >= sequence.queue_key:
            raise Violation(9, f"{sequence.request_id} waits behind somebody of lower rank")
        before = sequence.queue_key
        if sequence.state not in _WAITING:
            raise Violation(9, f"{sequence.request_id} waits as {sequence.state}")
        if sequence.computed or sequence.owned or sequence.room or sequence.lane != -1:
            holds = (sequence.computed, sequence.owned, sequence.room, sequence.lane)
            raise Violation(10, f"{sequence.request_id} waits and still holds {holds}")
        tokens += len(sequence.token_ids)
    if scheduler.num_waiting_tokens != tokens:
        raise Violation(20, f"{tokens} tokens wait, counted {scheduler.num_waiting_tokens}")


def _blame(sequence: Sequence, size: int) -> None:
    """Say which law a running sequence breaks."""
    computed, room = sequence.computed, sequence.room
    for table in sequence.tables:
        if len(table) * size != room or room < computed:
            raise Violation(
                6, f"{sequence.request_id}: {len(table)} blocks for {computed} positions"
            )
    if room - computed >= size + 9:
        raise Violation(6, f"{sequence.request_id}: room {room} for {computed} positions")
    if computed > len(sequence.token_ids) + sequence.placeholders + 8:
        raise Violation(7, f"{sequence.request_id}: {computed} positions computed too many")
    raise Violation(7, f"{sequence.request_id}: more proven than computed")


def check_plan(scheduler: Scheduler, plan: StepPlan, running: list[Sequence]) -> None:
    """INV-5, 8, 18 and 23 for one plan; `running` is the list before it was made."""
    limits = scheduler.limits
    entries = plan.scheduled
    tokens = decodes = 0
    before = True
    names = set()
    for entry in entries:
        sequence, is_decode = entry.sequence, entry.is_decode
        tokens += entry.num_tokens
        decodes += is_decode
        names.add(sequence.request.request_id)
        if is_decode and not before:
            raise Violation(8, "decodes do not stand first")
        before = is_decode
        end = entry.start + 1
        lone = entry.num_tokens == 1 and len(sequence.token_ids) <= end < sequence.max_len
        if not lone or entry.drafts or sequence.host_bound:  # else no law of an entry can be broken
            _check_entry(scheduler, entry)
    prefills = len(entries) - decodes
    if tokens > limits.max_tokens or prefills > limits.max_prefills:
        raise Violation(8, f"{tokens} tokens and {prefills} prefills in a step")
    if not limits.mix and prefills not in (0, len(entries)):
        raise Violation(8, "prefill and decode are mixed")
    if len(names) != len(entries):
        raise Violation(8, "a request is twice in a plan")
    for sequence, _ in plan.left_out:
        if sequence.request.request_id in names:
            raise Violation(8, f"{sequence.request_id} is in a plan and left out")
    if plan.preempted:
        oldest = min(running, key=scheduler.policy.rank).request_id
        if oldest in plan.preempted:
            raise Violation(18, f"{oldest} was the oldest and gave way")
    _check_writes(scheduler, plan)


def _check_entry(scheduler: Scheduler, entry: ScheduledSequence) -> None:
    limits, sequence = scheduler.limits, entry.sequence
    name, end = sequence.request.request_id, entry.start + entry.num_tokens
    if entry.num_tokens < 1:
        raise Violation(8, f"{name} has no token in the plan")
    if len(entry.drafts) > limits.num_drafts:
        raise Violation(23, f"{len(entry.drafts)} drafts for {name}")
    if end >= sequence.max_len and not sequence.request.pooling:
        raise Violation(7, f"{name} computes position {end - 1} and needs {sequence.max_len - 1}")
    partial = end < len(sequence.token_ids)
    if partial and entry.num_tokens % limits.chunk_multiple:
        raise Violation(8, f"{name}: a chunk of {entry.num_tokens} tokens")
    if partial and not limits.chunked:
        raise Violation(8, f"{name}: a chunk on a device without chunks")
    known = len(sequence.token_ids)
    if sequence.host_bound and end - len(entry.drafts) > known:
        raise Violation(24, f"{name} goes on before the host has seen its last token")


def _check_writes(scheduler: Scheduler, plan: StepPlan) -> None:
    """INV-5: what a step writes belongs to one sequence alone, or to those who adopt it in step."""
    size, refs = scheduler.blocks.block_size, scheduler.blocks.pool.refs
    pending = scheduler.blocks.cache.index.pending
    for entry in plan.scheduled:
        first = entry.start // size
        last = blocks_for(entry.start + entry.num_tokens, size)
        for table in entry.sequence.tables:
            for block in table[first:last]:
                if refs[block] == 1:
                    continue
                mark = pending.get(block)
                if mark is None or mark[0] is not entry.sequence or mark[1] != plan.step:
                    name = entry.sequence.request_id
                    raise Violation(5, f"{name} writes to block {block} of {refs[block]} holders")


def blocks_of_failed(
    plan: StepPlan, result: StepResult, pending: Mapping[int, tuple[Sequence, int]]
) -> set[int]:
    """INV-13, before a result is applied: what failed rows have filled and nobody has proven.

    Not even a finite row that reads it and stands before them in this step.
    """
    if result.failed is None:
        return set()
    failed = frozenset(result.failed.tolist())
    unproven = dict(pending)
    bad: set[int] = set()
    for row, entry in enumerate(entry for entry in plan.scheduled if entry.samples):
        sequence = entry.sequence
        if row in failed:
            bad.update(b for b, (producer, _) in unproven.items() if producer is sequence)
        elif entry.run == sequence.run:
            for block in sequence.adopted:
                unproven.pop(block, None)
    return bad
