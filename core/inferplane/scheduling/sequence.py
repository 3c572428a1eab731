"""A running sequence: everything the engine knows of one request, in one place."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from inferplane.request import Request

__all__ = ["Sequence", "SequenceState"]


class SequenceState(Enum):
    """Where a sequence is. The last four are terminal."""

    WAITING = "waiting"
    WAITING_GRAMMAR = "waiting_grammar"
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

    @property
    def request_id(self) -> str:
        """The engine's own id of it."""
        return self.request.request_id

    @property
    def num_prompt_tokens(self) -> int:
        """Length of the prompt."""
        return len(self.request.prompt_ids)

    @property
    def num_output_tokens(self) -> int:
        """Generated tokens whose values are known."""
        return len(self.token_ids) - len(self.request.prompt_ids)
