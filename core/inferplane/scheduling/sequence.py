"""A running sequence: everything the engine knows of one request, in one place."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from inferplane.media import MediaItem
from inferplane.request import Request

if TYPE_CHECKING:
    from inferplane.scheduling.drafting import NgramDrafter
    from inferplane.scheduling.plan import ScheduledSequence, SequenceEvent

__all__ = ["Sequence", "SequenceState"]


class SequenceState(Enum):
    """Where a sequence is. The last four are terminal."""

    WAITING = "waiting"
    WAITING_GRAMMAR = "waiting_grammar"
    WAITING_REMOTE = "waiting_remote"
    """Its KV is on the way from elsewhere; once there it goes before all others."""
    WAITING_INPUT = "waiting_input"
    """A streaming session that has said nothing new yet."""
    RUNNING = "running"
    PREEMPTED = "preempted"
    STOPPED = "stopped"
    LENGTH_CAPPED = "length_capped"
    ABORTED = "aborted"
    FAILED = "failed"

    @property
    def terminal(self) -> bool:
        """Whether nothing follows."""
        return self in _TERMINAL


_TERMINAL = frozenset(
    (
        SequenceState.STOPPED,
        SequenceState.LENGTH_CAPPED,
        SequenceState.ABORTED,
        SequenceState.FAILED,
    )
)


@dataclass(slots=True, eq=False)
class Sequence:
    """Tokens, progress and place of one request. Mutated by scheduler and block manager alone."""

    request: Request
    arrival_s: float
    token_ids: list[int]
    """Prompt, then the tokens whose values are known."""
    max_len: int
    """Most tokens it may ever have: prompt + max_tokens, within the context."""
    order: int = 0
    """Counts additions: the smaller arrived earlier."""
    state: SequenceState = SequenceState.WAITING
    computed: int = 0
    """Positions whose KV exists or is being computed in a step already planned."""
    placeholders: int = 0
    """Sampled positions in flight whose token is not known yet."""
    drafts: list[int] = field(default_factory=list)
    lane: int = -1
    """Stable number in [0, max_num_seqs) while it runs."""
    tables: tuple[list[int], ...] = ()
    """Block ids, one list a KV group; 0 where a window moved on."""
    cached_tokens: int = 0
    """Prompt tokens found in the prefix cache at first admission."""
    num_preemptions: int = 0
    first_scheduled_s: float | None = None
    """When it was first in a plan."""

    adapter: str = ""

    # What ends it, made once from the request.
    eos_ids: frozenset[int] = frozenset()
    stop_ids: frozenset[int] = frozenset()
    """End tokens and stop ids together."""
    deadline_s: float | None = None
    """When it ends with deadline_exceeded, on the caller's clock."""
    queue_deadline_s: float | None = None
    """When it ends with queue_timeout unless it was admitted before."""

    # The scheduler's own.
    queue_key: tuple[float, ...] = ()
    """Its place in the waiting queue, while it is in it."""
    prefill_end: int = 0
    """Tokens known at the last admission: computing them is prefill, what follows decode."""
    host_bound: bool = False
    """Its next input needs host work on the last token: it sits out the step after each."""
    plain_limit: int = 0
    """Positions below it are plain decode steps: the fast path of the walk."""
    decoded: bool = False
    """Had a decode step since its last admission."""
    sampled_step: int = -1
    """The newest step that samples for it."""
    run: int = 0
    """Counts its stays in the running list."""
    valid_from: int = 0
    """Results of earlier stays are dropped: their positions are sampled again."""
    unresumable: bool = False
    """Cannot be recomputed in one step, so it is never a victim and its worst case is reserved."""
    overtaken: int = 0
    """Admissions that went past it."""
    drafter: NgramDrafter | None = None
    lost: int = 0
    """Positions that the last preemption threw away."""
    spare: ScheduledSequence | None = None
    """Plan entry of a finished decode step, used again."""
    event: SequenceEvent | None = None
    """Event of a plain decode step, used again."""

    # The block manager's own.
    room: int = 0
    """Positions its tables cover."""
    proven: int = 0
    """Positions known to hold finite KV: a sampled row after them was finite."""
    next_full: int = 0
    """Once this many positions are proven, one more block is published."""
    alert: int = 0
    """A step that ends here or later may fill a block or reach `max_len`."""
    registered: int = 0
    """Leading full blocks that can be looked up, pending ones included."""
    published: int = 0
    """Of those, how many are proven or came from the cache."""
    digests: list[bytes] = field(default_factory=list)
    """Chain of full blocks; a function of the tokens, so it outlives preemption."""
    contents: list[int] = field(default_factory=list)
    """Numbers of the true contents behind `digests`, when hits are checked."""
    adopted: list[int] = field(default_factory=list)
    """Blocks of others taken before they were proven, as long as it holds them."""
    on_sand: bool = False
    """One of them left its window unproven: whether it was finite shows in its own rows alone."""
    adopts: bool = True
    """False once an adopted block went bad: it then computes everything itself."""
    window_start: list[int] = field(default_factory=list)
    """For each group the first block that has not left the window."""
    owned: int = 0
    """Blocks it holds, over all groups."""
    reserve: int = 0
    """Blocks promised to it at admission; 0 = none."""

    @property
    def request_id(self) -> str:
        """The engine's own id of it."""
        return self.request.request_id

    @property
    def items(self) -> tuple[MediaItem, ...]:
        """The pictures of its prompt."""
        return self.request.items

    @property
    def num_prompt_tokens(self) -> int:
        """Length of the prompt."""
        return len(self.request.prompt_ids)

    @property
    def num_output_tokens(self) -> int:
        """Generated tokens whose values are known."""
        return len(self.token_ids) - len(self.request.prompt_ids)
