"""All sequences of one HTTP request: submitted, followed, measured and surely ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from inferplane.engine.messages import SequenceOutput, TokenLogprobs
from inferplane.engine.streams import GenerationStream
from inferplane.request import FinishReason
from inferplane.sampling_params import SamplingParams
from inferplane.server.auth import Caller, cache_domain
from inferplane.server.context import ServerContext, Serving
from inferplane.server.errors import CODES, ApiError
from inferplane.server.prompts import Prompt
from inferplane.tokenization.text_stream import TextDelta, TextStream

__all__ = ["Choice", "Generation", "Order", "raise_failure"]

_QUEUED_EVENTS = 64


@dataclass(frozen=True, slots=True)
class Order:
    """What one HTTP request wants made."""

    prompts: Sequence[Prompt]
    params: SamplingParams
    request_id: str
    caller: Caller
    began: float
    """When the request came, on the monotonic clock."""
    priority: int = 0
    cache_salt: str | None = None
    deadline_s: float | None = None
    base_offsets: Sequence[int] = ()
    """Characters shown before each prompt's output."""
    markers: frozenset[int] = frozenset()
    """Special tokens that are part of the text."""
    task: str = "generate"
    """What the model must be able to do."""
    counts: bool = True
    """False: part of a request that has been charged."""


@dataclass(slots=True)
class Choice:
    """One sequence: its text so far to come, and what was measured."""

    index: int
    prompt: int
    text: TextStream
    cached_tokens: int = 0
    queue_s: float = 0.0
    prefill_s: float = 0.0
    first_s: float | None = None
    """When its first token came, on the monotonic clock."""
    last_s: float = 0.0
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
    finish: FinishReason | None = None
    reasoning_tokens: int = 0
    """Of its output, as far as the answer tells thoughts apart."""


@dataclass(slots=True)
class Generation:
    """Use: `await admit()`, then iterate `events()` to the end, then `close()` in any case.

    Choice `p * n + i` is completion i of prompt p.
    """

    context: ServerContext
    serving: Serving
    order: Order
    choices: list[Choice] = field(default_factory=list)
    _streams: list[GenerationStream] = field(default_factory=list)
    _counted: bool = False

    async def admit(self) -> None:
        """Submit every prompt. Raises RequestError or EngineError; then nothing is left running."""
        order = self.order
        self.serving.require(order.task)
        if order.counts:
            order.caller.charge(len(order.prompts) * order.params.n)
        self.context.lifecycle.running += 1
        self._counted = True
        try:
            for number, prompt in enumerate(order.prompts):
                self._streams.append(await self._submit(number, prompt))
                offset = order.base_offsets[number] if order.base_offsets else 0
                tokenizer = self.serving.model.tokenizer
                self.choices += [
                    Choice(
                        number * order.params.n + child,
                        number,
                        TextStream(tokenizer, order.params, prompt.ids, offset, order.markers),
                    )
                    for child in range(order.params.n)
                ]
        except BaseException:
            self.close()
            raise
        self._note_order()

    async def _submit(self, number: int, prompt: Prompt) -> GenerationStream:
        order = self.order
        suffix = f"-{number}" if len(order.prompts) > 1 else ""
        return await self.context.engine.submit(
            prompt.ids,
            order.params,
            request_id=order.request_id + suffix,
            eos_ids=self.serving.model.eos_ids,
            priority=order.priority,
            cache_domain=cache_domain(self.context.secret, order.caller, order.cache_salt),
            deadline_s=order.deadline_s or self.context.limits.request_s,
            items=prompt.items,
        )

    def _note_order(self) -> None:
        metrics, params = self.context.metrics, self.order.params
        metrics.request_n.observe(params.n)
        if params.max_tokens is not None:
            metrics.request_max_tokens.observe(params.max_tokens)
        for prompt in self.order.prompts:
            metrics.prompt_tokens.observe(len(prompt.ids))

    def close(self) -> None:
        """End whatever still runs. Idempotent."""
        for stream in self._streams:
            stream.abort()
        if self._counted:
            self._counted = False
            self.context.lifecycle.running -= 1

    async def events(self) -> AsyncIterator[tuple[Choice, TextDelta]]:
        """(choice, what is new) until all choices have ended; choices interleave.

        Raises ApiError when a sequence fails.
        """
        n = self.order.params.n
        left = len(self.choices)
        async for number, index, output in _merged(self._streams):
            choice = self.choices[number * n + index]
            if choice.finish is not None:
                continue
            self._measure(choice, output)
            delta = choice.text.feed(output)
            if choice.text.stopped:
                self._streams[number].finish(index)
            if delta.finish is not None:
                raise_failure(delta.finish, delta.error)
                choice.finish = delta.finish
                left -= 1
                self._note_end(choice)
            if delta:
                yield choice, delta
            if left == 0:
                return
        if left:
            raise ApiError.of("internal_error", "the engine ended a stream without a reason")

    def _measure(self, choice: Choice, output: SequenceOutput) -> None:
        metrics = self.context.metrics
        now = time.monotonic()
        if output.prompt_logprobs is not None:
            choice.prompt_logprobs = output.prompt_logprobs
        if not output.token_ids:
            return
        if choice.first_s is None:
            choice.first_s = now
            choice.cached_tokens = output.cached_tokens
            choice.queue_s, choice.prefill_s = output.queue_s, output.prefill_s
            metrics.time_to_first_token.observe(now - self.order.began)
            metrics.queue_seconds.observe(output.queue_s)
            metrics.prefill_seconds.observe(output.prefill_s)
        else:
            metrics.inter_token_latency.observe((now - choice.last_s) / len(output.token_ids))
        choice.last_s = now

    def _note_end(self, choice: Choice) -> None:
        metrics = self.context.metrics
        now = time.monotonic()
        decode_s = choice.last_s - choice.first_s if choice.first_s is not None else 0.0
        metrics.request_seconds.observe(now - self.order.began)
        metrics.decode_seconds.observe(decode_s)
        metrics.inference_seconds.observe(decode_s + choice.prefill_s)
        metrics.generation_tokens.observe(choice.text.num_tokens)


def raise_failure(finish: FinishReason | None, error: str) -> None:
    """Raise the ApiError of a sequence that ended otherwise than well."""
    if finish in (FinishReason.STOP, FinishReason.LENGTH):
        return
    code = error if error in CODES else ""
    if finish is FinishReason.ABORT:
        raise ApiError.of(code or "draining", _FAILURES.get(code, "the request was ended here"))
    raise ApiError.of(code or "internal_error", _FAILURES.get(code, "the request failed"))


_FAILURES = {
    "model_numerical_error": "the model's output was not finite for this request",
    "deadline_exceeded": "the request took longer than it may",
    "queue_timeout": "the request waited longer in the queue than it may",
    "engine_poisoned_request": "this request made the engine fail and was given up",
    "engine_restarting": "the engine is being restarted",
    "engine_dead": "the engine is not running",
    "draining": "the server is shutting down",
}


async def _merged(
    streams: Sequence[GenerationStream],
) -> AsyncIterator[tuple[int, int, SequenceOutput]]:
    """(stream, child, output) of all streams as they come; one stream needs no queue."""
    if len(streams) == 1:
        async for index, output in streams[0]:
            yield 0, index, output
        return
    queue: asyncio.Queue[_Event] = asyncio.Queue(_QUEUED_EVENTS)
    tasks = [asyncio.ensure_future(_pump(n, s, queue)) for n, s in enumerate(streams)]
    left = len(tasks)
    try:
        while left:
            event = await queue.get()
            if event is None:
                left -= 1
            elif isinstance(event, Exception):
                raise event
            else:
                yield event
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


_Event: TypeAlias = tuple[int, int, SequenceOutput] | Exception | None
"""None = one stream has ended."""


async def _pump(number: int, stream: GenerationStream, queue: asyncio.Queue[_Event]) -> None:
    try:
        async for index, output in stream:
            await queue.put((number, index, output))
    except Exception as error:  # whoever reads the queue raises it
        await queue.put(error)
    else:
        await queue.put(None)
