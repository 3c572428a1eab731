"""From the fields of a chat to a generation that can be admitted; shared by all chat dialects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from inferplane.server.answers.chat_events import ChoiceReader
from inferplane.server.chat_prompt import chat_prompt
from inferplane.server.constraints import grammar_of
from inferplane.server.context import ServerContext, Serving
from inferplane.server.errors import ApiError
from inferplane.server.generation import Generation, Order
from inferplane.server.handling import Asked
from inferplane.server.prompts import Prompt, check_length, truncated
from inferplane.server.sampling import check_model_bounds, sampling_params
from inferplane.server.schema.report import Report
from inferplane.server.schema.tools import ToolUse, tool_use
from inferplane.server.served_model import ServedModel
from inferplane.server.thinking import thinking_limit
from inferplane.server.tools.formats import Format, format_named
from inferplane.server.tools.stream import OutputParser, begins_thinking

__all__ = ["ChatOrder", "count_chat", "prepare_chat"]


@dataclass(frozen=True, slots=True)
class ChatOrder:
    """A generation, not yet admitted, and how its text is to be read."""

    generation: Generation
    reader: Callable[[], ChoiceReader]
    """Makes the reader of one choice."""


async def prepare_chat(
    context: ServerContext,
    asked: Asked,
    serving: Serving,
    found: Mapping[str, Any],
    *,
    max_tokens: int | None,
    logprobs: int | None,
) -> ChatOrder:
    """Checks that need the model, prompt, constraint and order of one chat.

    `found` holds checked fields by the names of chat completions, whatever the dialect. Raises
    ApiError or RequestError with those names.
    """
    report = asked.report
    check_model_bounds(found, serving.info, report)
    params = sampling_params(
        found,
        serving,
        report,
        max_tokens=max_tokens,
        logprobs=logprobs,
        prompt_logprobs=found.get("prompt_logprobs"),
    )
    priority = asked.priority(context)
    report.raise_problems()
    max_len = serving.info.max_model_len
    made = await chat_prompt(context, serving.model, found, max_len, report, asked.caller.name)
    text = made.text
    ids = truncated(made.ids, found, max_len, max_tokens or 1, report)
    if made.items and len(ids) < len(made.ids):
        raise ApiError.of(
            "unsupported_feature",
            "a prompt with pictures cannot be truncated",
            "truncate_prompt_tokens",
            "send fewer pictures or less text",
        )
    prompt = Prompt(ids, param="messages", items=made.items)
    check_length(prompt, max_tokens, serving)
    use = tool_use(found)
    row = _format(serving.model, use)
    thinking = begins_thinking(serving.model.pick.format, text)
    grammar = await grammar_of(
        context, serving, found, use, row, report, tenant=asked.caller.name, thinking=thinking
    )
    limit = thinking_limit(serving.model, found, thinking, report)
    report.raise_problems()
    order = Order(
        [prompt],
        replace(params, grammar=grammar, thinking=limit),
        asked.request_id,
        asked.caller,
        asked.began,
        priority,
        found.get("cache_salt"),
        asked.deadline_s(),
        markers=serving.model.markers[row.name],
    )
    reader = _reader(row, use, text, found.get("include_reasoning", True))
    return ChatOrder(Generation(context, serving, order), reader)


async def count_chat(
    context: ServerContext, found: Mapping[str, Any], report: Report, tenant: str
) -> int:
    """Tokens of a chat's prompt, without the engine.

    `found` as in `prepare_chat`. Raises ApiError or RequestError with those names.
    """
    model = await context.model()
    info = context.engine.info
    max_len = context.settings.launch.config.max_model_len if info is None else info.max_model_len
    return len((await chat_prompt(context, model, found, max_len, report, tenant)).ids)


def _format(model: ServedModel, use: ToolUse) -> Format:
    """The model's own format; Hermes' where it has none for calls, or where a call is forced."""
    row = model.pick.format
    if use.mode == "required":
        return format_named("hermes")
    told = model.template is not None and not model.template.takes_tools
    return format_named("hermes") if use.tools and (told or not row.tools) else row


def _reader(
    row: Format, use: ToolUse, prompt: str, include_reasoning: bool
) -> Callable[[], ChoiceReader]:
    thinking = begins_thinking(row, prompt)
    reads = bool(use.tools) or row.think[0] != ""

    def make() -> ChoiceReader:
        if not reads:
            return ChoiceReader(None)
        parser = OutputParser(row, use.tools, thinking=thinking, at_most_one=not use.parallel)
        return ChoiceReader(parser, include_reasoning)

    return make
