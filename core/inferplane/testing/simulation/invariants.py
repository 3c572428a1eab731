"""What must hold after every call, recounted from outside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from inferplane.scheduling.block_table import blocks_for
from inferplane.scheduling.plan import StepPlan
from inferplane.scheduling.scheduler import Scheduler
from inferplane.scheduling.sequence import Sequence, SequenceState
from inferplane.testing.simulation.oracle import Life
from inferplane.testing.simulation.violation import Violation

__all__ = ["check_blocks", "check_index", "check_plan", "check_requests"]

_WAITING = frozenset(
    (
        SequenceState.WAITING,
        SequenceState.WAITING_GRAMMAR,
        SequenceState.WAITING_INPUT,
        SequenceState.WAITING_REMOTE,
        SequenceState.PREEMPTED,
    )
)


def _require(invariant: int, holds: bool, message: str) -> None:
    if not holds:
        raise Violation(invariant, message)


def check_blocks(scheduler: Scheduler, thorough: bool) -> None:
    """INV-1, 2, 3, 4 and 26: holders recounted; the free list walked when `thorough`."""
    blocks = scheduler.blocks
    pool = blocks.pool
    held: dict[int, int] = {}
    for sequence in scheduler.sequences.values():
        owned = 0
        for table in sequence.tables:
            for block in table:
                if block:
                    owned += 1
                    held[block] = held.get(block, 0) + 1
        _require(26, owned == sequence.owned, f"{sequence.request_id} owns {owned} blocks")
    for block in pool.fenced_blocks():
        held[block] = held.get(block, 0) + 1
    refs = pool.refs
    for block, count in held.items():
        _require(2, refs[block] == count, f"block {block}: refs {refs[block]}, holders {count}")
    free = len(pool.free)
    _require(1, free + len(held) == pool.usable, f"{free} free + {len(held)} held blocks")
    if not scheduler.sequences and not scheduler.num_in_flight:
        _require(4, not held, f"idle, but {len(held)} blocks are held")
    if thorough:
        order = blocks.free_order()
        _require(3, len(order) == free == len(frozenset(order)), "the free list repeats a block")
        _require(3, 0 not in order and not refs[0], "block 0 is free or held")
        _require(3, not any(refs[block] for block in order), "a held block is free")
        promised = sum(max(0, s.reserve - s.owned) for s in scheduler.running)
        _require(26, promised == blocks._promised, f"{promised} blocks are promised")


def check_index(scheduler: Scheduler) -> None:
    """INV-15: digests and blocks point at each other, and nothing else does."""
    index = scheduler.blocks.cache.index
    count: dict[bytes, int] = {}
    for block, key in enumerate(index.keys):
        if key is not None:
            count[key] = count.get(key, 0) + 1
            _require(15, block in index.copies(key), f"block {block} is lost to its digest")
    _require(15, len(count) == len(index), "a digest has no block")
    for key, copies in count.items():
        _require(15, len(index.copies(key)) == copies, "a digest has a stale block")
    for block in index.pending:
        _require(13, index.keys[block] is not None, f"pending block {block} has no digest")


def check_requests(scheduler: Scheduler, lives: Mapping[str, Life]) -> None:
    """INV-6, 7, 8, 9, 10 and 20 for every request."""
    size = scheduler.blocks.block_size
    running = scheduler.running
    lanes = [s.lane for s in running]
    _require(8, len(frozenset(lanes)) == len(lanes), f"lanes {lanes} are not distinct")
    _require(8, len(running) <= scheduler.limits.max_active, f"{len(running)} run")
    waiting = scheduler.waiting
    queued = {s.request_id for s in running} | {s.request_id for s in waiting}
    total = len(running) + len(waiting)
    _require(9, len(queued) == total == len(scheduler.sequences), "a request is in two queues")
    _require(
        9,
        all(a.queue_key < b.queue_key for a, b in zip(waiting, waiting[1:], strict=False)),
        "the waiting queue is out of order",
    )
    for sequence in running:
        _require(9, sequence.state is SequenceState.RUNNING, f"{sequence.state} in running")
        _check_running(sequence, lives[sequence.request_id], size)
    for sequence in waiting:
        _require(9, sequence.state in _WAITING, f"{sequence.state} in waiting")
        _require(
            10,
            sequence.computed == sequence.owned == sequence.room == 0 and sequence.lane == -1,
            f"{sequence.request_id} waits and still holds something",
        )
    tokens = sum(len(s.token_ids) for s in waiting)
    _require(20, scheduler.num_waiting_tokens == tokens, f"{tokens} tokens wait")


def _check_running(sequence: Sequence, life: Life, size: int) -> None:
    name = sequence.request_id
    known = len(sequence.token_ids)
    computed = sequence.computed
    for table in sequence.tables:
        _require(
            6,
            len(table) * size == sequence.room and len(table) >= blocks_for(computed, size),
            f"{name}: {len(table)} blocks for {computed} positions",
        )
    lookahead = blocks_for(sequence.room - computed, size)
    _require(6, lookahead <= 1 + blocks_for(16, size), f"{name}: {lookahead} blocks too many")
    most = known + sequence.placeholders + len(sequence.drafts) + 8
    _require(7, computed <= most, f"{name}: {computed} computed of {known} known")
    _require(7, sequence.proven <= computed, f"{name}: more proven than computed")
    same = life.last_run == sequence.run
    _require(
        7,
        not same or computed >= min(life.last_computed, sequence.proven),
        f"{name}: computed fell from {life.last_computed} to {computed}",
    )
    life.last_computed, life.last_run = computed, sequence.run


def check_plan(scheduler: Scheduler, plan: StepPlan, oldest: str | None) -> None:
    """INV-5, 8 and 18 for one plan; `oldest` was the first in rank before it was made."""
    limits = scheduler.limits
    entries = plan.scheduled
    _require(8, plan.num_tokens <= limits.max_tokens, f"{plan.num_tokens} tokens in a step")
    names = [e.sequence.request_id for e in entries]
    _require(8, len(frozenset(names)) == len(names), "a request is twice in a plan")
    _require(8, all(e.num_tokens >= 1 for e in entries), "a request with no token")
    kinds = [e.is_decode for e in entries]
    _require(8, kinds == sorted(kinds, reverse=True), "decodes do not stand first")
    prefills = len(kinds) - sum(kinds)
    _require(8, prefills <= limits.max_prefills, f"{prefills} prefills")
    _require(8, limits.mix or prefills in (0, len(kinds)), "prefill and decode are mixed")
    _require(18, oldest not in plan.preempted, f"{oldest} was the oldest and gave way")
    refs = scheduler.blocks.pool.refs
    adopted = frozenset(_adopted_in_step(scheduler, plan))
    for entry in entries:
        _check_entry(scheduler, entry.sequence, entry.start, entry.num_tokens, refs, adopted)
        drafts = entry.drafts
        _require(23, len(drafts) <= limits.num_drafts, f"{len(drafts)} drafts")
    overlap = names and any(name in plan.skipped for name in names)
    _require(8, not overlap, "a request is both planned and left out")


def _adopted_in_step(scheduler: Scheduler, plan: StepPlan) -> Iterable[int]:
    pending = scheduler.blocks.cache.index.pending
    for entry in plan.scheduled:
        for block in entry.sequence.adopted:
            if block in pending and pending[block][1] == plan.step:
                yield block


def _check_entry(
    scheduler: Scheduler,
    sequence: Sequence,
    start: int,
    num_tokens: int,
    refs: list[int],
    adopted: frozenset[int],
) -> None:
    size = scheduler.blocks.block_size
    last = (start + num_tokens - 1) // size
    for table in sequence.tables:
        for index in range(start // size, last + 1):
            block = table[index]
            shared = refs[block] > 1 and block not in adopted
            _require(5, not shared, f"{sequence.request_id} writes to shared block {block}")
