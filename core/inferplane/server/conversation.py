"""Conversations as templates want them, and the prompt text that comes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import jiter

from inferplane.server.errors import ApiError
from inferplane.server.limits import Limits
from inferplane.server.prompts import check_characters
from inferplane.server.schema.report import Report
from inferplane.server.schema.tools import tool_use
from inferplane.server.served_model import ServedModel
from inferplane.server.tools.generic import told_in_text
from inferplane.tokenization.chat_template import ChatTemplate

__all__ = ["chat_text", "check_chat"]


async def chat_text(
    model: ServedModel, found: Mapping[str, Any], limits: Limits, max_len: int, report: Report
) -> str:
    """The prompt text of checked chat fields. Raises ApiError or RequestError.

    Tools that the template knows nothing of are told in the system message.
    """
    template = model.template
    if model.hearing is not None:
        raise ApiError.of(
            "route_unsupported_by_model",
            "this route needs a model that can generate; the served one can transcribe",
            hint="send recordings to /v1/audio/transcriptions, or serve another model",
        )
    if template is None:
        raise ApiError.of(
            "no_chat_template",
            "this model has no chat template",
            "messages",
            "start the server with --chat-template FILE, or use /v1/completions",
        )
    check_characters(_size(found["messages"]), max_len, limits, "messages")
    knows_developer = "developer" in template.source
    messages = [_shaped(message, knows_developer) for message in found["messages"]]
    tools: Sequence[Mapping[str, Any]] | None = tool_use(found).offered or None
    if not template.takes_tools:
        messages, tools = told_in_text(messages, tools), None
    continues = found.get("continue_final_message", False)
    return await asyncio.to_thread(
        template.render,
        messages,
        tools,
        found.get("add_generation_prompt", not continues),
        continue_final_message=continues,
        documents=found.get("documents"),
        template_kwargs=_template_kwargs(template, found, report),
    )


def _template_kwargs(
    template: ChatTemplate, found: Mapping[str, Any], report: Report
) -> dict[str, Any]:
    """What the caller sets, and what its reasoning effort means to this template."""
    kwargs = dict(found.get("chat_template_kwargs") or {})
    effort = found.get("reasoning_effort")
    if effort is None:
        return kwargs
    if "reasoning_effort" in template.names:
        kwargs.setdefault("reasoning_effort", effort)
        return kwargs
    switch = next((n for n in ("enable_thinking", "thinking") if n in template.names), None)
    if switch is None:
        report.notice("ignored_field", "reasoning_effort", "the chat template has no such control")
    else:
        kwargs.setdefault(switch, effort != "none")
    return kwargs


def _size(messages: Sequence[Mapping[str, Any]]) -> int:
    total = 0
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            total += len(content)
        elif content:
            total += sum(len(part.get("text") or part.get("refusal") or "") for part in content)
    return total


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
        made["content"] = [_part(part) for part in content]
    thought = made.get("reasoning_content", made.get("reasoning"))
    if thought is not None:
        made["reasoning"] = made["reasoning_content"] = thought
    if "tool_calls" in made:
        made["tool_calls"] = [_call(call) for call in made["tool_calls"]]
    return made


def _part(part: Mapping[str, Any]) -> dict[str, str]:
    if part.get("type") == "image_url":
        return {"type": "image"}
    return {"type": "text", "text": part.get("text") or part.get("refusal") or ""}


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
