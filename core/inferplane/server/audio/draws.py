"""Answers of a model that hears, a stretch at a time: each is one sequence of the engine.

What may come next depends on what came before (a first token, a timestamp after a text), and a
sequence has one set of rules: so a new stretch begins where they change, its prompt all that was
made. The audio's blocks are found in the prefix cache.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from inferplane.errors import RequestError
from inferplane.media import MediaItem
from inferplane.sampling_params import SamplingParams
from inferplane.server.audio.hearing import Hearing
from inferplane.server.context import ServerContext, Serving
from inferplane.server.errors import ApiError
from inferplane.server.generation import Generation, Order
from inferplane.server.handling import Asked, refused
from inferplane.server.prompts import Prompt, check_length

__all__ = ["Draws", "Stretch"]

_NEVER = -1e9
"""Added to a logit."""
_LEAST = 8
"""Tokens for what comes before an answer, beside a text of half the room, and for its beginning."""


@dataclass(slots=True)
class Stretch:
    """What one sequence made."""

    ids: list[int] = field(default_factory=list)
    """With the token that ended it."""
    logprob: float = 0.0
    """Sum over its tokens."""


class Draws:
    """The sequences of one request, one after another."""

    def __init__(
        self, context: ServerContext, serving: Serving, asked: Asked, hearing: Hearing
    ) -> None:
        speech = hearing.speech
        self.tokens = hearing.tokens
        self.room = min(speech.most_text, serving.info.max_model_len - speech.padded)
        """Tokens of text and answer together."""
        if self.room < speech.most_text // 2 + _LEAST:
            needed = speech.padded + speech.most_text
            raise ApiError.of(
                "context_length_exceeded",
                f"the context is {serving.info.max_model_len} tokens; a recording and its text "
                f"take {needed}",
                "file",
                f"start the server with --max-model-len {needed}, or without it",
            )
        asked.caller.charge(1)
        self._speech = speech
        self._priority = asked.priority(context)
        self._context = context
        self._serving = serving
        self._asked = asked
        self.temperature: float = asked.found.get("temperature", 0.0)
        self._made = 0

    async def one(
        self,
        window: MediaItem,
        ids: Sequence[int],
        *,
        allowed: Iterable[int] | None = None,
        never: Collection[int] = (),
        greedy: bool = False,
    ) -> Stretch:
        """The next token alone."""
        found = Stretch()
        async for _ in self.more(
            window, ids, found, allowed=allowed, never=never, most=1, greedy=greedy
        ):
            pass
        return found

    async def more(
        self,
        window: MediaItem,
        ids: Sequence[int],
        found: Stretch,
        *,
        allowed: Iterable[int] | None = None,
        never: Collection[int] = (),
        stops: Collection[int] = (),
        most: int | None = None,
        greedy: bool = False,
    ) -> AsyncIterator[Sequence[int]]:
        """Tokens as they come, up to the end of text or one of `stops`; `found` has it all."""
        room = self.room - len(ids)
        if room < 1:
            return
        generation = self._generation(
            window,
            ids,
            SamplingParams(
                temperature=0.0 if greedy else self.temperature,
                max_tokens=room if most is None else min(most, room),
                allowed_token_ids=None if allowed is None else tuple(allowed),
                logit_bias=dict.fromkeys((*self.tokens.suppressed, *never), _NEVER) or None,
                stop_token_ids=tuple(stops),
                logprobs=0,
            ),
        )
        try:
            try:
                await generation.admit()
            except RequestError as error:
                raise refused(self._context, error) from None
            async for _, delta in generation.events():
                found.ids += delta.token_ids
                found.logprob += sum(one.values[0] for one in delta.logprobs or ())
                yield delta.token_ids
        finally:
            generation.close()

    def _generation(
        self, window: MediaItem, ids: Sequence[int], params: SamplingParams
    ) -> Generation:
        audio = [self._speech.placeholder] * self._speech.padded
        prompt = Prompt([*audio, *ids], None, "file", (window,))
        check_length(prompt, None, self._serving)
        self._made += 1
        order = Order(
            [prompt],
            params,
            f"{self._asked.request_id}-{self._made}",
            self._asked.caller,
            self._asked.began,
            self._priority,
            deadline_s=self._asked.deadline_s(),
            task="transcribe",
            counts=False,
        )
        return Generation(self._context, self._serving, order)
