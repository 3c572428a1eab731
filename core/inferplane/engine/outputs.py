"""What the front end is told of a step: the scheduler's events with times and log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass

from inferplane.engine.messages import SequenceOutput, TokenLogprobs
from inferplane.engine.prompt_scores import PromptScores, token_logprobs
from inferplane.interfaces import StepBatch, StepResult
from inferplane.scheduling.plan import SequenceEvent, StepPlan

__all__ = ["FinishedStep", "OutputWriter"]


@dataclass(frozen=True, slots=True)
class FinishedStep:
    """A step whose result is on the host."""

    plan: StepPlan
    batch: StepBatch
    result: StepResult


class OutputWriter:
    """Turns events into outputs; remembers what goes with each sequence's first one."""

    def __init__(self) -> None:
        self._scores = PromptScores()

    @property
    def num_held(self) -> int:
        """Sequences whose first output is still to come with what was kept."""
        return len(self._scores)

    def collect(self, step: FinishedStep) -> None:
        """Keep what a step scored of prompts, whether it leads to events or not."""
        if step.batch.scored is not None:
            self._scores.collect(step.plan, step.batch, step.result)

    def write(
        self, events: Many[SequenceEvent], now: float, step: FinishedStep | None = None
    ) -> list[SequenceOutput]:
        """One output an event, in order; `step` is the one they came from."""
        plain = step is not None and step.result.logprobs is None
        outputs = []
        for event in events:
            sequence, new = event.sequence, event.token_ids
            request = sequence.request
            if (
                plain
                and event.finish is None
                and len(sequence.token_ids) - len(new) > len(request.prompt_ids)
            ):
                outputs.append(SequenceOutput(request.request_id, tuple(new)))
            else:  # its first tokens, its last ones, or some with log-probabilities
                outputs.append(self._full(event, now, step))
        return outputs

    def _full(self, event: SequenceEvent, now: float, step: FinishedStep | None) -> SequenceOutput:
        sequence = event.sequence
        request_id = sequence.request.request_id
        started = sequence.first_scheduled_s if _is_first(event) else None
        return SequenceOutput(
            request_id,
            tuple(event.token_ids),
            logprobs=_logprobs(event, step),
            prompt_logprobs=self._scores.take(request_id),
            finish=event.finish,
            stop_reason=event.stop_reason,
            error=event.error,
            cached_tokens=sequence.cached_tokens,
            queue_s=0.0 if started is None else started - sequence.arrival_s,
            prefill_s=0.0 if started is None else now - started,
            embedding=_embedding(event, step) if sequence.request.pooling else b"",
        )


def _is_first(event: SequenceEvent) -> bool:
    """Whether its tokens are the first of the sequence, or it ended without any."""
    sequence = event.sequence
    known = len(sequence.token_ids) - len(event.token_ids)
    return known == len(sequence.request.prompt_ids)


def _logprobs(event: SequenceEvent, step: FinishedStep | None) -> tuple[TokenLogprobs, ...] | None:
    asked = event.sequence.request.sampling.logprobs
    if asked is None or step is None or step.result.logprobs is None or not event.token_ids:
        return None
    return (token_logprobs(step.result.logprobs, event.row, asked),)


def _embedding(event: SequenceEvent, step: FinishedStep | None) -> bytes:
    if step is None or step.result.embeddings is None or event.row < 0:
        return b""
    return bytes(step.result.embeddings[event.row].astype("<f4").data)
