"""From texts to token ids: tokenising, truncation and a prompt's limits."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inferplane.media import MediaItem
from inferplane.server.context import Serving
from inferplane.server.errors import ApiError
from inferplane.server.limits import Limits
from inferplane.server.schema.report import Report
from inferplane.server.served_model import ServedModel

__all__ = ["Prompt", "check_characters", "check_length", "encode", "truncated"]

_THREAD_CHARACTERS = 4_000
"""Longer texts are tokenised in a thread, so that the event loop goes on."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt as the engine gets it."""

    ids: list[int]
    text: str | None = None
    """As the client wrote it; None = it came as ids, or as messages."""
    param: str = "prompt"
    """Path of the field it came from."""
    items: tuple[MediaItem, ...] = ()
    """Its pictures."""


def check_characters(size: int, serving_len: int, limits: Limits, param: str) -> None:
    """Refuse a text that cannot fit before it costs anything. Raises ApiError."""
    most = limits.characters_per_token * serving_len
    if size > most:
        raise ApiError.of(
            "context_length_exceeded",
            f"the prompt has {size} characters; at most {most} are read for a context of "
            f"{serving_len} tokens",
            param,
            "shorten the prompt",
        )


async def encode(model: ServedModel, text: str, add_special_tokens: bool) -> list[int]:
    """Token ids of a text."""
    if len(text) > _THREAD_CHARACTERS:
        return await asyncio.to_thread(model.tokenizer.encode, text, add_special_tokens)
    return model.tokenizer.encode(text, add_special_tokens)


def truncated(
    ids: list[int], found: Mapping[str, Any], max_len: int, answer_tokens: int, report: Report
) -> list[int]:
    """The prompt cut as `truncate_prompt_tokens` asks; what was cut is told."""
    asked = found.get("truncate_prompt_tokens")
    if asked is None:
        return ids
    size = max(1, max_len - answer_tokens) if asked == -1 else asked
    if len(ids) <= size:
        return ids
    report.warnings.add("prompt_truncated", "prompt", kept=size, of=len(ids))
    return ids[:size] if found.get("truncation_side", "left") == "right" else ids[-size:]


def check_length(prompt: Prompt, asked: int | None, serving: Serving) -> None:
    """A prompt and its answer must fit the context. Raises ApiError with the numbers."""
    info = serving.info
    size = len(prompt.ids)
    if size == 0:
        raise ApiError.of("out_of_range", "the prompt has no tokens", prompt.param)
    worst = max(prompt.ids)
    if worst >= info.embedding_rows:
        raise ApiError.of(
            "token_out_of_vocabulary",
            f"token id {worst} is not in [0, {info.embedding_rows})",
            prompt.param,
        )
    wanted = 1 if asked is None else max(asked, 1)
    if size + wanted > info.max_model_len:
        room = info.max_model_len - size
        raise ApiError.of(
            "context_length_exceeded",
            f"the prompt has {size} tokens{_of_pictures(prompt)} and {wanted} more are asked for; "
            f"the context is {info.max_model_len} tokens",
            prompt.param if room < 1 else "max_tokens",
            f"ask for at most {room} tokens"
            if room >= 1
            else "shorten the prompt, or send truncate_prompt_tokens: -1",
        )


def _of_pictures(prompt: Prompt) -> str:
    count = len(prompt.items)
    if count == 0:
        return ""
    size = sum(item.length for item in prompt.items)
    return f", {size} of them for {count} picture{'s' if count > 1 else ''},"
