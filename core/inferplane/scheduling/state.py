"""What the scheduler knows: queues, lanes, steps in flight, counters; and the limits it obeys."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Literal

from inferplane.errors import ConfigError
from inferplane.interfaces import EngineConfig, SchedulerLimits, ShapePolicy
from inferplane.launch import SchedulerConfig
from inferplane.scheduling.block_manager import BlockManager
from inferplane.scheduling.plan import SkipReason, StepPlan
from inferplane.scheduling.policy import Policy, find_policy
from inferplane.scheduling.sequence import Sequence, SequenceState
from inferplane.scheduling.waiting_queue import WaitingQueue

__all__ = ["Features", "Limits", "PauseMode", "SchedulerCounters", "SchedulerState"]

PauseMode = Literal["keep", "abort", "drain"]


@dataclass(frozen=True, slots=True)
class Features:
    """What model and executor do beyond the plain case."""

    pad_first_decode: bool = True
    """Fill a sequence's first decode up with placeholder drafts; False for diffusion models."""
    chunked_pooling: bool = False
    """The executor can pool a prompt it computes in several steps."""
    outside_readers: bool = False
    """Somebody outside the order of steps reads blocks: every release waits for those in flight."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Configuration and back-end in one: the minimum of both."""

    max_model_len: int
    max_seqs: int
    """Lanes, and sequences of one step."""
    max_active: int
    """Running sequences."""
    max_tokens: int
    """Tokens of one step."""
    max_prefills: int
    mix: bool
    chunked: bool
    chunk_multiple: int
    num_drafts: int
    async_steps: int
    recompute: bool
    max_waiting: int

    @classmethod
    def of(cls, config: EngineConfig, settings: SchedulerConfig, back: SchedulerLimits) -> Limits:
        """Join them. Raises ConfigError when no step could ever run."""
        seqs = min(config.max_num_seqs, back.max_num_seqs or config.max_num_seqs)
        tokens = min(config.max_batched_tokens, back.max_step_tokens or config.max_batched_tokens)
        limits = cls(
            max_model_len=config.max_model_len,
            max_seqs=seqs,
            max_active=min(seqs, settings.max_active_seqs or seqs),
            max_tokens=tokens,
            max_prefills=seqs if back.max_prefill_seqs is None else back.max_prefill_seqs,
            mix=back.mix_prefill_decode,
            chunked=settings.chunked_prefill and back.chunked_prefill,
            chunk_multiple=back.chunk_multiple,
            num_drafts=min(settings.num_drafts, back.max_drafts),
            async_steps=back.async_steps,
            recompute=back.preemption == "recompute",
            max_waiting=settings.max_waiting or 4 * seqs,
        )
        if min(seqs, tokens, limits.max_prefills, limits.max_active) < 1:
            raise ConfigError(
                f"nothing could run: max_num_seqs {seqs}, max_batched_tokens {tokens}, prefilling "
                f"sequences per step {limits.max_prefills}; each must be at least 1"
            )
        if limits.chunked and limits.chunk_multiple > tokens:
            raise ConfigError(
                f"max_batched_tokens {tokens} holds no prefill chunk of {limits.chunk_multiple} "
                "tokens, the smallest this device takes; raise --max-batched-tokens"
            )
        return limits


@dataclass(slots=True)
class SchedulerCounters:
    """Totals since the start."""

    skipped: Counter[SkipReason] = field(default_factory=Counter)
    preemptions: int = 0
    recomputed_tokens: int = 0
    """Positions computed again after a preemption; what the prefix cache kept does not count."""
    rollbacks: int = 0
    """Sequences computed again because a block they had adopted went bad."""
    admissions: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of them, found in the prefix cache."""
    prefix_requests: int = 0
    prefix_queried_tokens: int = 0
    prefix_hit_tokens: int = 0
    generated_tokens: int = 0
    drafts: int = 0
    """Rows verified with at least one real draft."""
    draft_tokens: int = 0
    accepted_tokens: int = 0
    accepted_per_position: list[int] = field(default_factory=list)
    finished: Counter[str] = field(default_factory=Counter)
    """By finish reason, or by error code."""


class SchedulerState:
    """Shared by the parts of the scheduler; each request is in exactly one of its queues."""

    def __init__(
        self,
        config: EngineConfig,
        settings: SchedulerConfig,
        limits: SchedulerLimits,
        shapes: ShapePolicy,
        blocks: BlockManager,
        features: Features,
    ) -> None:
        self.settings = settings
        self.limits = Limits.of(config, settings, limits)
        self.features = features
        self.blocks = blocks
        blocks.in_flight_tokens = max(blocks.in_flight_tokens, self.limits.max_tokens)
        ask = type(shapes).admits is not ShapePolicy.admits
        self.shapes = shapes if ask else None
        """None when every shape may run."""
        self.policy: Policy = find_policy(settings.policy)
        self.watermark = int(settings.watermark * blocks.usable)
        self.sequences: dict[str, Sequence] = {}
        self.running: list[Sequence] = []
        self.waiting = WaitingQueue()
        self.in_flight: deque[StepPlan] = deque()
        self.released: list[int] = []
        """Lanes that ended since the last plan that ran."""
        self.step = 0
        """The newest step that ran."""
        self.prefill_step = -settings.prefill_interval
        """The newest step that carried prefill."""
        self.paused: PauseMode | None = None
        self.next_expiry = float("inf")
        """No deadline lies before it."""
        self.counters = SchedulerCounters()
        self._lanes = list(range(self.limits.max_seqs))
        self._additions = 0

    def next_order(self) -> int:
        """A number for one more arrival."""
        self._additions += 1
        return self._additions

    def enter_running(self, sequence: Sequence) -> None:
        """Take it from the waiting queue into the running list."""
        self.waiting.remove(sequence)
        sequence.state = SequenceState.RUNNING
        sequence.lane = heappop(self._lanes)
        sequence.prefill_end = len(sequence.token_ids)
        sequence.decoded = False
        self.running.append(sequence)

    def leave_running(self, sequence: Sequence, state: SequenceState) -> None:
        """Free its blocks and its lane; the caller takes it out of the running list."""
        self.blocks.free(sequence, self.features.outside_readers)
        sequence.state = state
        sequence.run += 1
        sequence.drafts = []
        sequence.spare = None
        self.released.append(sequence.lane)
        heappush(self._lanes, sequence.lane)
        sequence.lane = -1

    def requeue(self, sequence: Sequence) -> None:
        """Put a sequence that was running back into the queue."""
        self.leave_running(sequence, SequenceState.PREEMPTED)
        sequence.lost = 0
        self._additions += 1
        sequence.queue_key = (0, *self.policy.queue_key(sequence, self._additions))
        self.waiting.add(sequence)

    def forget_in_flight(self, sequence: Sequence) -> None:
        """Drop what steps in flight sampled for it: those positions are sampled again."""
        sequence.valid_from = sequence.run
        sequence.placeholders = 0

    def prune_running(self) -> None:
        """Drop from the running list whatever left that state."""
        self.running = [s for s in self.running if s.state is SequenceState.RUNNING]

    def set_plain(self, sequence: Sequence) -> None:
        """Say how far the fast path may carry the sequence; after each step outside it.

        A step that ends at position p makes p + 2 tokens known in the worst case, and no step may
        be wasted beyond `max_len`.
        """
        limits = self.limits
        special = limits.num_drafts or sequence.computed < sequence.prefill_end
        if special or limits.async_steps > 1 or (limits.async_steps and sequence.host_bound):
            sequence.plain_limit = 0
        else:
            sequence.plain_limit = sequence.max_len - 1
