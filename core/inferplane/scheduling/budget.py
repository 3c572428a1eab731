"""What one step still has room for: tokens, prefilling sequences, shapes that exist."""

from __future__ import annotations

from inferplane.interfaces import ShapePolicy, StepShape
from inferplane.scheduling.plan import ScheduledSequence
from inferplane.scheduling.sequence import Sequence

__all__ = ["StepBudget"]


class StepBudget:
    """A step under construction."""

    __slots__ = (
        "_block_size",
        "_counted",
        "_shape",
        "_shapes",
        "decodes",
        "max_prefills",
        "prefills",
        "tokens",
    )

    def __init__(
        self, tokens: int, max_prefills: int, shapes: ShapePolicy | None, block_size: int
    ) -> None:
        """`shapes` None = every shape may run."""
        self.tokens = tokens
        """Tokens left."""
        self.max_prefills = max_prefills
        self.decodes: list[ScheduledSequence] = []
        self.prefills: list[ScheduledSequence] = []
        self._shapes = shapes
        self._block_size = block_size
        self._counted = (0, 0)
        self._shape = (0, 0, 0, 0)

    @property
    def prefills_full(self) -> bool:
        """Whether one more prefilling sequence is too many."""
        return len(self.prefills) >= self.max_prefills

    def place(self, entry: ScheduledSequence) -> None:
        """Put an entry into the step."""
        (self.decodes if entry.is_decode else self.prefills).append(entry)
        self.tokens -= entry.num_tokens

    def take_back(self, sequence: Sequence) -> ScheduledSequence | None:
        """Take the sequence out of the step again, if it was in it."""
        for entries in (self.decodes, self.prefills):
            for position, entry in enumerate(entries):
                if entry.sequence is sequence:
                    del entries[position]
                    self.tokens += entry.num_tokens
                    self._counted, self._shape = (0, 0), (0, 0, 0, 0)
                    return entry
        return None

    def grow(self, entry: ScheduledSequence, num_tokens: int) -> bool:
        """Lengthen a placed entry if the shape exists."""
        entry.num_tokens += num_tokens
        self.tokens -= num_tokens
        self._counted, self._shape = (0, 0), (0, 0, 0, 0)
        if self.admitted():
            return True
        self.shrink(entry, num_tokens)
        return False

    def shrink(self, entry: ScheduledSequence, num_tokens: int) -> None:
        """Undo `grow`."""
        entry.num_tokens -= num_tokens
        self.tokens += num_tokens
        self._counted, self._shape = (0, 0), (0, 0, 0, 0)

    def admits(self, start: int, num_tokens: int, is_decode: bool) -> bool:
        """Whether the step may grow by positions [start, start + num_tokens) of a sequence."""
        if self._shapes is None:
            return True
        tokens, query, context, blocks = self._size()
        seqs = len(self.decodes) + len(self.prefills)
        end = start + num_tokens
        return self._shapes.admits(
            StepShape(
                num_tokens=tokens + num_tokens,
                num_seqs=seqs + 1,
                num_decodes=len(self.decodes) + is_decode,
                max_query=max(query, num_tokens),
                max_context=max(context, end),
                context_blocks=blocks - (-end // self._block_size),
            )
        )

    def admitted(self) -> bool:
        """Whether the step may run as it is; decodes are placed without asking one by one."""
        if self._shapes is None or not (self.decodes or self.prefills):
            return True
        tokens, query, context, blocks = self._size()
        seqs = len(self.decodes) + len(self.prefills)
        return self._shapes.admits(
            StepShape(tokens, seqs, len(self.decodes), query, context, blocks)
        )

    def _size(self) -> tuple[int, int, int, int]:
        """Tokens, longest query, longest context and blocks of what is placed so far."""
        tokens, query, context, blocks = self._shape
        decodes, prefills = self._counted
        for entry in self.decodes[decodes:] + self.prefills[prefills:]:
            end = entry.start + entry.num_tokens
            tokens += entry.num_tokens
            query = max(query, entry.num_tokens)
            context = max(context, end)
            blocks -= -end // self._block_size
        self._counted = (len(self.decodes), len(self.prefills))
        self._shape = (tokens, query, context, blocks)
        return self._shape
