"""From constraints and forced tool calls to the grammar an order carries."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from inferplane.grammar.sources import GrammarSource, check_source
from inferplane.sampling_params import Grammar
from inferplane.server.context import ServerContext, Serving
from inferplane.server.schema.report import Report
from inferplane.server.schema.structured import constraint_of
from inferplane.server.schema.tools import ToolUse
from inferplane.server.served_model import ServedModel
from inferplane.server.thinking import think_ids
from inferplane.server.tools.forced import calls_grammar, free_calls_grammar
from inferplane.server.tools.formats import Format
from inferplane.server.tools.values import Tool

__all__ = ["grammar_of"]

_JSON_FORMATS = ("hermes", "qwen_xml")
"""Formats in which the JSON notation of calls is at home."""


async def grammar_of(
    context: ServerContext,
    serving: Serving,
    found: Mapping[str, Any],
    use: ToolUse,
    row: Format,
    report: Report,
    *,
    tenant: str,
    thinking: bool,
) -> Grammar | None:
    """The compiled grammar; None when nothing constrains the output.

    Raises RequestError for what cannot be enforced: the request never runs unconstrained.
    """
    source = _source(serving.model, found, use, row, report)
    if source is None:
        return None
    compiler = context.grammar_compiler(serving)
    text = await asyncio.to_thread(compiler.compile, source, tenant)
    start, end = think_ids(serving.model)
    if len(start) > 1:  # its first token could begin anything
        start = ()
    return Grammar(text=text, think_start=start, think_end=end, thinking=thinking and bool(end))


def _source(
    model: ServedModel, found: Mapping[str, Any], use: ToolUse, row: Format, report: Report
) -> GrammarSource | None:
    asked = constraint_of(found)
    if asked is not None:
        check_source(asked)
    allowed = [tool for name, tool in use.tools.items() if name in use.allowed]
    if use.mode == "required":
        _check_parameters(use)
        text = calls_grammar(model.tokenizer, allowed, parallel=use.parallel)
        return GrammarSource("lark", text, "tools")
    if not use.tools:
        return asked
    if asked is not None and asked.kind == "json" and row.name in _JSON_FORMATS:
        text = calls_grammar(model.tokenizer, allowed, parallel=use.parallel, answer=asked.value)
        return GrammarSource("lark", text, asked.param)
    if asked is not None:
        return asked
    return _strict_source(model, use, row, report)


def _strict_source(
    model: ServedModel, use: ToolUse, row: Format, report: Report
) -> GrammarSource | None:
    """Arguments of tools that ask for it are bound as soon as a call begins."""
    strict = [one["function"]["name"] for one in use.offered if one["function"].get("strict")]
    if not strict:
        return None
    _check_parameters(use)
    if row.name != "hermes":
        report.notice(
            "ignored_field", "tools", f"strict arguments cannot be enforced in format {row.name}"
        )
        return None
    bound = [t if n in strict else Tool(n) for n, t in use.tools.items() if n in use.allowed]
    return GrammarSource("lark", free_calls_grammar(model.tokenizer, bound), "tools")


def _check_parameters(use: ToolUse) -> None:
    """Schemas of tools keep the limits of all schemas. Raises RequestError."""
    for index, tool in enumerate(use.tools.values()):
        param = f"tools.{index}.function.parameters"
        check_source(GrammarSource("json", dict(tool.parameters), param))
