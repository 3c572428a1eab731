"""The front end's handle on one submitted prompt: its outputs as they come, one way to end it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from inferplane.engine.messages import SequenceOutput
from inferplane.request import FinishReason

__all__ = ["AbortChildren", "GenerationStream", "merge_outputs"]


class AbortChildren(Protocol):
    """Tell the engine to end sequences; never blocks, never raises."""

    def __call__(self, ids: tuple[str, ...], reason: FinishReason) -> None: ...


class GenerationStream:
    """Async iterator of (index, SequenceOutput); `index` says which of `params.n`.

    Outputs that queued up while nobody read are merged per index. Each index ends with one output
    that has `finish`; then, or after `abort`, the iteration ends. A stream that is garbage
    collected aborts what is left of it.
    """

    def __init__(
        self,
        request_id: str,
        child_ids: Sequence[str],
        abort_children: AbortChildren,
        abort_later: Callable[[tuple[str, ...]], None],
    ) -> None:
        """`abort_later` is for the garbage collector, which may run on any thread."""
        self.request_id = request_id
        self._open = {child_id: index for index, child_id in enumerate(child_ids)}
        self._arrived: dict[int, list[SequenceOutput]] = {}
        self._abort_children = abort_children
        self._abort_later = abort_later
        self._waiter: asyncio.Future[None] | None = None

    def __aiter__(self) -> GenerationStream:
        return self

    async def __anext__(self) -> tuple[int, SequenceOutput]:
        while not self._arrived:
            if not self._open:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        index = next(iter(self._arrived))
        return index, merge_outputs(self._arrived.pop(index))

    async def collect(self) -> list[SequenceOutput]:
        """Wait for the end of all and return one merged output for each index, in order."""
        parts: dict[int, list[SequenceOutput]] = {}
        async for index, output in self:
            parts.setdefault(index, []).append(output)
        return [merge_outputs(parts[index]) for index in sorted(parts)]

    def finish(self, index: int) -> None:
        """The front end found a stop string: end this one; nothing more comes for it."""
        for child_id, held in list(self._open.items()):
            if held == index:
                self._abort_children((child_id,), FinishReason.STOP)
                self._end(child_id)
        self._arrived.pop(index, None)

    def abort(self) -> None:
        """End all that still runs; idempotent."""
        if self._open:
            self._abort_children(tuple(self._open), FinishReason.ABORT)
        self._open.clear()
        self._arrived.clear()
        self._wake()

    def deliver(self, output: SequenceOutput) -> None:
        """The client hands over an output of one of `open_ids`; others are ignored."""
        index = self._open.get(output.request_id)
        if index is None:
            return
        self._arrived.setdefault(index, []).append(output)
        if output.finish is not None:
            self._end(output.request_id)
        self._wake()

    @property
    def open_ids(self) -> tuple[str, ...]:
        """Ids the engine knows the unfinished ones by."""
        return tuple(self._open)

    def __del__(self) -> None:
        if self._open:
            self._abort_later(tuple(self._open))

    def _end(self, child_id: str) -> None:
        del self._open[child_id]
        if not self._open:
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def merge_outputs(outputs: Sequence[SequenceOutput]) -> SequenceOutput:
    """Several outputs of one sequence, in order, as one."""
    if len(outputs) == 1:
        return outputs[0]
    first, last = outputs[0], outputs[-1]
    logprobs = [entry for output in outputs for entry in output.logprobs or ()]
    return msgspec.structs.replace(
        last,
        token_ids=tuple(token for output in outputs for token in output.token_ids),
        logprobs=tuple(logprobs) if any(o.logprobs is not None for o in outputs) else None,
        prompt_logprobs=first.prompt_logprobs,
        cached_tokens=max(output.cached_tokens for output in outputs),
        queue_s=first.queue_s,
        prefill_s=first.prefill_s,
    )
