"""From the messages of a chat to the prompt that the engine gets, with its pictures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inferplane.media import MediaItem
from inferplane.server.context import ServerContext
from inferplane.server.conversation import chat_text
from inferplane.server.errors import ApiError
from inferplane.server.media.picture_messages import ReadPicture
from inferplane.server.media.picture_processor import PictureProcessor
from inferplane.server.media.prompt import encode_marked, place_pictures
from inferplane.server.media.sources import SentPicture, picture_bytes, sent_pictures
from inferplane.server.prompts import encode
from inferplane.server.schema.report import Report
from inferplane.server.served_model import ServedModel

__all__ = ["ChatPrompt", "chat_prompt"]


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """What a chat comes to."""

    text: str
    """With one token for each picture."""
    ids: list[int]
    items: tuple[MediaItem, ...] = ()


async def chat_prompt(
    context: ServerContext,
    model: ServedModel,
    found: Mapping[str, Any],
    max_len: int,
    report: Report,
    tenant: str,
) -> ChatPrompt:
    """The prompt of checked chat fields. Raises ApiError or RequestError.

    Pictures are remembered for `tenant` alone.
    """
    sent = sent_pictures(found["messages"])
    _check_pictures(sent, model, context)
    text = await chat_text(model, found, context.limits, max_len, report)
    report.raise_problems()
    special = found.get("add_special_tokens", False)
    if model.pictures is None:
        return ChatPrompt(text, await encode(model, text, special))
    token = model.pictures.token
    ids = await asyncio.to_thread(encode_marked, model.tokenizer, text, token, len(sent), special)
    read = await _read(context, model.pictures, sent, tenant) if sent else []
    ids, items = place_pictures(ids, token.id, read)
    return ChatPrompt(text.replace(token.mark, token.text), ids, items)


def _check_pictures(
    sent: Sequence[SentPicture], model: ServedModel, context: ServerContext
) -> None:
    if not sent:
        return
    if model.pictures is None:
        raise ApiError.of(
            "unsupported_feature",
            f"{sent[0].kind_path}: a picture is not supported by this model",
            sent[0].kind_path,
            "send text; this model takes no media",
        )
    most = context.limits.media_items
    if len(sent) > most:
        said = f"the request has {len(sent)} pictures; at most {most} are read"
        raise ApiError.of("too_many_items", said, sent[most].path)


async def _read(
    context: ServerContext, pictures: PictureProcessor, sent: Sequence[SentPicture], tenant: str
) -> list[ReadPicture]:
    """What stands for each picture. Raises ApiError for the first that is none."""
    began, metrics = time.monotonic(), context.metrics
    found: list[ReadPicture] = []
    try:
        for one in sent:
            data = await picture_bytes(one, context.limits, context.fetcher)
            read = await asyncio.to_thread(pictures.read, data, tenant)
            if read.fault:
                said = f"{one.path}: the picture cannot be used: {read.fault}"
                raise ApiError.of("media_invalid", said, one.path)
            metrics.note_picture("read")
            found.append(read)
    except ApiError:
        metrics.note_picture("refused")
        raise
    metrics.media_seconds.observe(time.monotonic() - began)
    return found
