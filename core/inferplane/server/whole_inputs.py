"""The texts of a request that reads whole texts: `input` in its four shapes, or `messages`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inferplane.server.context import ServerContext, Serving
from inferplane.server.conversation import chat_text, check_chat
from inferplane.server.handling import Asked
from inferplane.server.pooled import WholeText, framed_text, given_ids
from inferplane.server.prompts import encode
from inferplane.server.schema.report import Report

__all__ = ["check_input", "whole_inputs"]


def check_input(found: Mapping[str, Any], report: Report) -> None:
    """One of the two must be there."""
    given = [name for name in ("input", "messages") if name in found]
    if not given and not report.problems:
        report.wrong("missing_field", "input", "input is missing, and so is messages")
    elif len(given) == 2:
        report.wrong("conflicting_fields", "input", "input and messages exclude each other")
    if "messages" in found:
        check_chat(found, report)


async def whole_inputs(context: ServerContext, asked: Asked, serving: Serving) -> list[WholeText]:
    """Every text in order. Raises ApiError."""
    found = asked.found
    if "messages" in found:
        max_len = serving.info.max_model_len
        text = await chat_text(serving.model, found, context.limits, max_len, asked.report)
        ids = await encode(serving.model, text, found.get("add_special_tokens", False))
        return [given_ids(serving, asked, ids, "messages")]
    given = found["input"]
    many = isinstance(given, list) and not isinstance(given[0], int)
    texts = []
    for index, one in enumerate(given if many else [given]):
        param = f"input.{index}" if many else "input"
        if isinstance(one, str):
            texts.append(await framed_text(context, serving, asked, one, param))
        else:
            texts.append(given_ids(serving, asked, one, param))
    return texts
