"""`inferplane inspect`: what a model is, how its output is read and why, what would serve it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from cyclopts import Parameter

from inferplane.cli.flags import Given, resolve_given, with_settings
from inferplane.cli.serve import fetch_model
from inferplane.config import ModelSettings

__all__ = ["inspect"]

_MIB = 1024 * 1024


@with_settings(ModelSettings)
def inspect(given: Given, *, json_: Annotated[bool, Parameter(help="As JSON.")] = False) -> int:
    """Show what a model is: architecture, weights, template, formats of calls and thoughts.

    Only headers of the weights are read. Formats come with the evidence for them. The last lines
    say which device and which parts would serve it with these settings.
    """
    settings = ModelSettings(**resolve_given(given).of(ModelSettings))
    path = fetch_model(settings)

    from inferplane.cli.inspection import inspection  # 300 ms that --help need not pay

    found = inspection(settings, path)
    if json_:
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(f"{name:15}{told}" for name, told in _lines(found)))
    return 0


def _lines(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(label, text) of each line; further lines of one label have none."""
    yield "model", f"{found['model']}  {found['path']}  {found['format']}"
    yield from _architecture(found["architecture"])
    yield from _weights(found["weights"])
    tokenizer = found["tokenizer"]
    ends = ", ".join(f"{text} {id}" for text, id in tokenizer["end_tokens"].items())
    yield "tokenizer", f"{tokenizer['class']}  {tokenizer['vocabulary']} tokens  ends with {ends}"
    yield from _template(found["chat_template"])
    tools, reasoning = found["tools"], found["reasoning"]
    yield "tool calls", f"{tools['format']}  because {tools['evidence']}"
    if reasoning is None:
        yield "reasoning", "none"
    else:
        marks = f"{reasoning['begin']!r} to {reasoning['end']!r}"
        yield "reasoning", f"{reasoning['format']}  {marks}  because {reasoning['evidence']}"
    defaults = found["sampling_defaults"]
    shown = ", ".join(f"{name} {value:g}" for name, value in defaults.items())
    yield "sampling", shown or "the API's defaults"
    yield from _served(found["served_by"])


def _architecture(one: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "architecture", f"{one['name']} ({one['model_type']}), {one['dtype']}"
    experts = f", {one['experts']} experts" if one["experts"] else ""
    heads = f"{one['heads']} heads of {one['head_size']} ({one['kv_heads']} KV)"
    yield "", f"{one['layers']} layers, hidden {one['hidden_size']}, {heads}{experts}"
    windows = f", windows {', '.join(map(str, one['windows']))}" if one["windows"] else ""
    yield "", f"context {one['context']}{windows}, vocabulary {one['vocabulary']}"


def _weights(one: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    size = one["bytes"] / _MIB
    yield "weights", f"{one['spoken']} parameters, {size:.1f} MiB, {one['quantization']}"
    for name, facts in one["dtypes"].items():
        yield "", f"{name}: {facts['tensors']} tensors, {facts['bytes'] / _MIB:.1f} MiB"


def _template(one: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    if one is None:
        yield "template", "none: chats are refused; --chat-template FILE gives one"
        return
    tools = "takes tools" if one["takes_tools"] else "takes no tools"
    yield "template", f"{one['characters']} characters, {tools}  from {one['from']}"
    if one["settings"]:
        yield "", f"chat_template_kwargs: {', '.join(one['settings'])}"


def _served(one: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if one["device"] is None:
        yield "served by", f"nothing here: {one['reason']}"
        return
    yield "served by", f"{one['device']} ({one['plugin']} {one['version']}): {one['reason']}"
    sees = ", takes pictures" if one["takes_pictures"] else ""
    model = f"{one['model']} of {one['model_owner']}{sees}"
    yield "", f"model {model}; tasks {', '.join(one['tasks'])}"
    if one["quantization"]:
        yield "", f"quantization {one['quantization']}"
    yield "", f"{one['dtype']}, context {one['context']}"
    for change in one["changes"]:
        yield "", f"{change['key']} {change['value']}: {change['reason']}"
    for name, reason in one["others"].items():
        yield "", f"not {name}: {reason}"
