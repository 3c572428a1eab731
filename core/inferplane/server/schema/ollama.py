"""The fields of Ollama's POST /api/chat, /api/generate and /api/show."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from inferplane.server.limits import Limits
from inferplane.server.schema.fields import Field, State, Structure
from inferplane.server.schema.kinds import (
    AnyOf,
    Flag,
    Json,
    Kind,
    ListOf,
    Number,
    OneOf,
    Text,
    TokenIds,
    Whole,
)
from inferplane.server.schema.pictures import images_field
from inferplane.server.schema.report import Report
from inferplane.server.schema.sampling import sampling_fields
from inferplane.server.schema.tools import tool_fields

__all__ = [
    "chat_structure",
    "embed_structure",
    "generate_structure",
    "model_field",
    "options_kind",
    "show_structure",
]

_COUNT = (1 << 31) - 1
_SAME = ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "seed", "stop")
_MACHINE = (
    "numa",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "low_vram",
    "f16_kv",
    "logits_all",
    "vocab_only",
    "use_mmap",
    "use_mlock",
    "embedding_only",
    "num_thread",
)
_DRAWING = (
    "num_keep",
    "tfs_z",
    "typical_p",
    "repeat_last_n",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
    "penalize_newline",
)


class _Name(Kind):
    """A model's name; NAME:latest is NAME."""

    wants = "a string"
    _text = Text(1, 512)

    def check(self, value: object, path: str, report: Report) -> str | None:
        name = self._text.check(value, path, report)
        return None if name is None else name.removesuffix(":latest")

    def schema(self) -> dict[str, Any]:
        return self._text.schema()


def model_field(*, required: bool = True) -> Field:
    """Which model."""
    return Field("model", _Name(), "A served name; NAME:latest is NAME.", required=required)


def options_kind(limits: Limits) -> Structure:
    """What shapes the output; the rest is about a machine that the server manages itself."""
    drawing = [field for field in sampling_fields(limits) if field.name in _SAME]
    return Structure(
        [
            *drawing,
            Field("top_k", Whole(0, _COUNT), "Keep so many tokens; 0 = all."),
            Field("repeat_penalty", Number(0, 10, above=True), "Divides logits of seen tokens."),
            Field(
                "num_predict", Whole(1, _COUNT, also=(-1, -2)), "Most tokens; -1, -2 = no limit."
            ),
            Field("num_ctx", Whole(1, _COUNT), "Context wanted; the served one is the most."),
            *(Field(name, Json(), "the server decides", State.NOTICED) for name in _MACHINE),
            *(Field(name, Json(), "there is no such rule", State.NOTICED) for name in _DRAWING),
        ]
    )


def _shared_fields(limits: Limits) -> list[Field]:
    schema = AnyOf((OneOf(("", "json")), Json(dict)), '"json" or a JSON schema')
    levels = AnyOf((Flag(), OneOf(("low", "medium", "high", "max"))), "a boolean or a level")
    return [
        model_field(),
        Field("stream", Flag(), "Send a line for each piece.", default=True),
        Field("format", schema, "The answer is JSON, or matches the schema."),
        Field("options", options_kind(limits), "How tokens are drawn and when it ends."),
        Field("think", levels, "Turns thinking on or off where the template can."),
        _keep_alive(),
        Field("logprobs", Flag(), "Also send log-probabilities.", default=False),
        Field("top_logprobs", Whole(0, limits.logprobs), "Alternatives; needs logprobs."),
    ]


def _keep_alive() -> Field:
    duration = AnyOf((Text(0, 64), Number(-1e12, 1e12)), "a duration or seconds")
    return Field("keep_alive", duration, "Accepted; the model stays loaded.")


def _message(limits: Limits) -> Structure:
    function = Structure(
        [
            Field("name", Text(1, 256), "The function's name.", required=True),
            Field("arguments", Json(dict), "Its arguments.", required=True),
            Field("index", Whole(0, 1 << 20), "Its place; nothing depends on it."),
        ]
    )
    call = Structure(
        [
            Field("id", Text(0, 256), "What the result refers to."),
            Field("type", OneOf(("function",)), "The kind of call."),
            Field("function", function, "What was called.", required=True),
        ]
    )
    roles = OneOf(("system", "user", "assistant", "tool"))
    return Structure(
        [
            Field("role", roles, "Who speaks.", required=True),
            Field("content", Text(), "What is said."),
            Field("thinking", Text(), "What the assistant thought."),
            Field("tool_calls", ListOf(call, 0, limits.tools), "What the assistant called."),
            Field("tool_name", Text(0, 256), "Which tool this is the result of."),
            Field("tool_call_id", Text(0, 256), "Which call this is the result of."),
            images_field(limits),
        ]
    )


def chat_structure(limits: Limits) -> Structure:
    """The table of /api/chat."""
    tools = next(field for field in tool_fields(limits) if field.name == "tools")
    assert isinstance(tools.kind, ListOf)
    messages = ListOf(_message(limits), 0, limits.messages)
    return Structure(
        [
            *_shared_fields(limits),
            Field("messages", messages, "The conversation; without it, the model is loaded."),
            replace(tools, kind=replace(tools.kind, low=0)),
        ]
    )


def generate_structure(limits: Limits) -> Structure:
    """The table of /api/generate."""
    model, noticed = "templates come from the model or the operator", State.NOTICED
    return Structure(
        [
            *_shared_fields(limits),
            Field("prompt", Text(), "What to answer; without it, the model is loaded."),
            Field("system", Text(), "Rules, said before the prompt."),
            Field("raw", Flag(), "Continue the prompt as it is, without template.", default=False),
            Field("template", Text(), model, noticed, unless=("",)),
            Field("context", TokenIds(), "send the conversation to /api/chat", noticed),
            Field(
                "suffix",
                Text(),
                "the model cannot fill in the middle",
                State.REFUSED,
                unless=("",),
                hint="write the suffix into the prompt",
            ),
            images_field(limits),
        ]
    )


def embed_structure(limits: Limits) -> Structure:
    """The table of /api/embed."""
    text = Text(1)
    many = ListOf(text, 1, limits.pooled_inputs)
    return Structure(
        [
            model_field(),
            Field("input", AnyOf((text, many), "a string or a list"), "The texts.", required=True),
            Field("truncate", Flag(), "Cut texts to what the model reads.", default=True),
            Field("dimensions", Whole(1, _COUNT), "Shorter vectors, where trained for."),
            Field("options", Json(dict), "nothing is drawn", State.NOTICED, unless=({},)),
            _keep_alive(),
        ]
    )


def show_structure() -> Structure:
    """The table of /api/show."""
    return Structure(
        [
            model_field(required=False),
            Field("name", _Name(), "The older name of model."),
            Field("verbose", Flag(), "Nothing is left out anyway.", default=False),
        ]
    )
