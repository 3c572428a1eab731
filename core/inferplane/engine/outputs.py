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
        self._started: dict[str, float] = {}
        """When a sequence that has sent nothing yet was first scheduled."""
        self._scores = PromptScores()

    def scheduled(self, plan: StepPlan, now: float) -> None:
        """A plan was made."""
        for request_id in plan.new:
            self._started[request_id] = now

    def write(
        self, events: Many[SequenceEvent], now: float, step: FinishedStep | None = None
    ) -> list[SequenceOutput]:
        """One output an event, in order; `step` is the one they came from."""
        if step is not None and step.batch.scored is not None:
            self._scores.collect(step.plan, step.batch, step.result)
        started, plain = self._started, step is not None and step.result.logprobs is None
        return [
            SequenceOutput(event.sequence.request.request_id, tuple(event.token_ids))
            if plain and event.finish is None and event.sequence.request.request_id not in started
            else self._full(event, now, step)
            for event in events
        ]

    def _full(self, event: SequenceEvent, now: float, step: FinishedStep | None) -> SequenceOutput:
        sequence = event.sequence
        request_id = sequence.request.request_id
        started = self._started.pop(request_id, None)
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


def _logprobs(event: SequenceEvent, step: FinishedStep | None) -> tuple[TokenLogprobs, ...] | None:
    asked = event.sequence.request.sampling.logprobs
    if asked is None or step is None or step.result.logprobs is None or not event.token_ids:
        return None
    return (token_logprobs(step.result.logprobs, event.row, asked),)


def _embedding(event: SequenceEvent, step: FinishedStep | None) -> bytes:
    if step is None or step.batch.embedded is None or step.result.embeddings is None:
        return b""
    for row, index in enumerate(step.batch.embedded.tolist()):
        if step.plan.scheduled[index].sequence is event.sequence:
            return bytes(step.result.embeddings[row].astype("<f4").data)
    return b""
