"""Counters of the engine, kept in constant time, and the report made of them on request."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence as Many

from inferplane.engine.messages import SequenceOutput
from inferplane.interfaces import StepBatch
from inferplane.request import FinishReason

__all__ = ["Counters"]

_MOST_SAMPLES = 4096
"""Step sizes kept between two reports; older ones are dropped."""


class Counters:
    """What happened since the engine started."""

    def __init__(self) -> None:
        self.steps = 0
        self.prompt_tokens = 0
        self.prompt_tokens_cached = 0
        self.generation_tokens = 0
        self.finished: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.step_tokens: deque[int] = deque(maxlen=_MOST_SAMPLES)

    def count_step(self, batch: StepBatch) -> None:
        """A step was enqueued."""
        self.steps += 1
        self.step_tokens.append(len(batch.token_ids))

    def count_outputs(self, outputs: Many[SequenceOutput]) -> None:
        """Outputs leave the engine."""
        for output in outputs:
            self.generation_tokens += len(output.token_ids)
            if output.finish is not None:
                failed = output.finish is FinishReason.ERROR
                self.finished[output.error if failed else output.finish.value] += 1

    def take_step_tokens(self) -> tuple[int, ...]:
        """Tokens of each step since the last call."""
        taken = tuple(self.step_tokens)
        self.step_tokens.clear()
        return taken
