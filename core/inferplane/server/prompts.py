"""From checked fields to token ids: templates, tokenising, truncation and a prompt's limits."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jiter

from inferplane.server.context import Serving
from inferplane.server.errors import ApiError
from inferplane.server.limits import Limits
from inferplane.server.schema.report import Report
from inferplane.server.served_model import ServedModel

__all__ = ["Prompt", "chat_text", "check_characters", "encode", "truncated"]

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


def _size(messages: Sequence[Mapping[str, Any]]) -> int:
    total = 0
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            total += len(content)
        elif content:
            total += sum(len(part.get("text") or part.get("refusal") or "") for part in content)
    return total


async def chat_text(
    model: ServedModel, found: Mapping[str, Any], limits: Limits, max_len: int
) -> str:
    """The prompt text of checked chat fields. Raises ApiError or RequestError."""
    template = model.template
    if template is None:
        raise ApiError.of(
            "no_chat_template",
            "this model has no chat template",
            "messages",
            "start the server with --chat-template FILE, or use /v1/completions",
        )
    messages = found["messages"]
    check_characters(_size(messages), max_len, limits, "messages")
    continues = found.get("continue_final_message", False)
    return await asyncio.to_thread(
        template.render,
        [_shaped(message, "developer" in template.source) for message in messages],
        found.get("tools"),
        found.get("add_generation_prompt", not continues),
        continue_final_message=continues,
        documents=found.get("documents"),
        template_kwargs=found.get("chat_template_kwargs"),
    )


def check_chat(found: Mapping[str, Any], report: Report) -> None:
    """Rules between the fields that make a chat prompt."""
    if found.get("continue_final_message") and found.get("add_generation_prompt"):
        report.wrong(
            "conflicting_fields",
            "continue_final_message",
            "continue_final_message and add_generation_prompt exclude each other",
            "send add_generation_prompt: false",
        )
    messages = found.get("messages") or ()
    for index, message in enumerate(messages):
        calls = isinstance(message, dict) and message.get("tool_calls")
        if isinstance(message, dict) and message.get("content") is None and not calls:
            where = f"messages.{index}.content"
            report.wrong("missing_field", where, f"{where} is missing")
    if found.get("continue_final_message") and messages and not _continues(messages[-1]):
        report.wrong(
            "unknown_value",
            "continue_final_message",
            "the last message is no assistant message with text to continue",
        )


def _continues(message: object) -> bool:
    return (
        isinstance(message, dict)
        and message.get("role") == "assistant"
        and bool(message.get("content"))
    )


def _shaped(message: Mapping[str, Any], knows_developer: bool) -> dict[str, Any]:
    """One message as templates expect it."""
    made = {key: value for key, value in message.items() if key != "refusal"}
    if made["role"] == "developer" and not knows_developer:
        made["role"] = "system"
    content = made.get("content")
    if content is None:
        made["content"] = ""
    elif isinstance(content, list):
        made["content"] = [
            {"type": "text", "text": part.get("text") or part.get("refusal") or ""}
            for part in content
        ]
    thought = made.get("reasoning_content", made.get("reasoning"))
    if thought is not None:
        made["reasoning"] = made["reasoning_content"] = thought
    if "tool_calls" in made:
        made["tool_calls"] = [_call(call) for call in made["tool_calls"]]
    return made


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call in history; templates get arguments as an object."""
    function = dict(call["function"])
    arguments = function["arguments"]
    if isinstance(arguments, str):
        try:
            parsed = jiter.from_json(arguments.encode() or b"{}", allow_inf_nan=False)
        except ValueError:
            parsed = arguments
        function["arguments"] = parsed if isinstance(parsed, dict) else arguments
    return {"type": "function", **call, "function": function}


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
            f"the prompt has {size} tokens and {wanted} more are asked for; the context is "
            f"{info.max_model_len} tokens",
            prompt.param if room < 1 else "max_tokens",
            f"ask for at most {room} tokens"
            if room >= 1
            else "shorten the prompt, or send truncate_prompt_tokens: -1",
        )
