"""Whole texts through the engine: a vector or row of scores for each, in order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inferplane.errors import RequestError
from inferplane.interfaces import Array
from inferplane.pooled_values import vector_of
from inferplane.server.auth import cache_domain
from inferplane.server.context import ServerContext, Serving
from inferplane.server.errors import ApiError
from inferplane.server.generation import raise_failure
from inferplane.server.handling import Asked, refused
from inferplane.server.prompts import check_characters
from inferplane.server.schema.report import Report
from inferplane.tokenization.framing import Framed, frame_pair, frame_text

__all__ = ["WholeText", "framed_pair", "framed_text", "given_ids", "pooled"]

_THREAD_CHARACTERS = 4_000
"""Longer texts are tokenised in a thread, so that the event loop goes on."""


@dataclass(frozen=True, slots=True)
class WholeText:
    """One text, or pair of texts, as the engine gets it."""

    ids: list[int]
    second_start: int = 0


async def framed_text(
    context: ServerContext,
    serving: Serving,
    asked: Asked,
    text: str,
    param: str,
    most: int | None = None,
) -> WholeText:
    """A text with its special tokens, cut to `most` or as the request asks. Raises ApiError."""
    found = asked.found
    check_characters(len(text), serving.info.max_model_len, context.limits, param)
    arguments = (
        serving.model.tokenizer,
        text,
        most or _most(found, serving),
        found.get("truncation_side", "right"),
    )
    special = found.get("add_special_tokens", True)
    if len(text) > _THREAD_CHARACTERS:
        framed = await asyncio.to_thread(frame_text, *arguments, special_tokens=special)
    else:
        framed = frame_text(*arguments, special_tokens=special)
    return _checked(framed, serving, asked.report, param)


async def framed_pair(
    context: ServerContext,
    serving: Serving,
    asked: Asked,
    texts: tuple[str, str],
    param: str,
    second_most: int | None = None,
) -> WholeText:
    """Two texts as one, cut if the request asks, the second also to `second_most` tokens.

    Raises ApiError.
    """
    size = len(texts[0]) + len(texts[1])
    check_characters(size, serving.info.max_model_len, context.limits, param)
    arguments = serving.model.tokenizer, *texts, _most(asked.found, serving), second_most
    if size > _THREAD_CHARACTERS:
        framed = await asyncio.to_thread(frame_pair, *arguments)
    else:
        framed = frame_pair(*arguments)
    return _checked(framed, serving, asked.report, param)


def given_ids(serving: Serving, asked: Asked, ids: list[int], param: str) -> WholeText:
    """Token ids as they came, cut if the request asks. Raises ApiError."""
    most, full = _most(asked.found, serving), len(ids)
    if most is not None and full > most:
        right = asked.found.get("truncation_side", "right") == "right"
        ids = ids[:most] if right else ids[-most:]
    return _checked(Framed(ids, full), serving, asked.report, param)


def _most(found: Mapping[str, Any], serving: Serving) -> int | None:
    asked = found.get("truncate_prompt_tokens")
    return serving.info.max_model_len if asked == -1 else asked


def _checked(framed: Framed, serving: Serving, report: Report, param: str) -> WholeText:
    info, size = serving.info, len(framed.ids)
    if size == 0:
        raise ApiError.of("out_of_range", "the text has no tokens", param)
    if max(framed.ids) >= info.embedding_rows:
        raise ApiError.of(
            "token_out_of_vocabulary",
            f"token id {max(framed.ids)} is not in [0, {info.embedding_rows})",
            param,
        )
    if size > info.max_model_len:
        raise ApiError.of(
            "context_length_exceeded",
            f"the text has {size} tokens; the model reads {info.max_model_len}",
            param,
            "shorten the text, or send truncate_prompt_tokens: -1",
        )
    if size < framed.full_size:
        report.warnings.add("prompt_truncated", param, kept=size, of=framed.full_size)
    return WholeText(framed.ids, framed.second_start)


async def pooled(
    context: ServerContext, serving: Serving, asked: Asked, texts: Sequence[WholeText]
) -> list[Array]:
    """f32[D] or f32[C] for each text, in order. Raises ApiError, RequestError or EngineError.

    No more texts wait in the engine at once than it runs, so that one request does not fill the
    queue of all. A failure or the client's leaving ends those under way.
    """
    vectors: list[Array | None] = [None] * len(texts)
    left = iter(range(len(texts)))
    priority = asked.priority(context)
    context.lifecycle.running += 1
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(len(texts), serving.info.max_num_seqs)):
                group.create_task(_work(context, asked, priority, texts, left, vectors))
    except ExceptionGroup as failed:
        first = failed.exceptions[0]
        raise (refused(context, first) if isinstance(first, RequestError) else first) from None
    finally:
        context.lifecycle.running -= 1
    _note(context, asked, texts)
    return [vector for vector in vectors if vector is not None]


async def _work(
    context: ServerContext,
    asked: Asked,
    priority: int,
    texts: Sequence[WholeText],
    left: Iterator[int],
    into: list[Array | None],
) -> None:
    """Take texts while there are any."""
    for number in left:
        text = texts[number]
        stream = await context.engine.pool(
            text.ids,
            request_id=f"{asked.request_id}-{number}",
            priority=priority,
            cache_domain=cache_domain(context.secret, asked.caller, None),
            deadline_s=asked.deadline_s() or context.limits.request_s,
            second_start=text.second_start,
        )
        try:
            (output,) = await stream.collect()
        finally:
            stream.abort()
        raise_failure(output.finish, output.error)
        into[number] = vector_of(output.embedding)


def _note(context: ServerContext, asked: Asked, texts: Sequence[WholeText]) -> None:
    context.metrics.request_seconds.observe(time.monotonic() - asked.began)
    for text in texts:
        context.metrics.prompt_tokens.observe(len(text.ids))
    asked.note(prompt_tokens=sum(len(text.ids) for text in texts), completion_tokens=0)
