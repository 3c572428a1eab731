"""The fields of POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from inferplane.server.limits import Limits
from inferplane.server.schema.fields import Field, State, Structure, Tagged
from inferplane.server.schema.kinds import AnyOf, Flag, Json, ListOf, OneOf, Text, Whole
from inferplane.server.schema.messages_tools import ToolKind, cache_control_field, choice_kind
from inferplane.server.schema.pictures import messages_picture
from inferplane.server.schema.sampling import sampling_fields

__all__ = ["count_tokens_structure", "messages_structure"]

_COUNT = (1 << 31) - 1
_MEDIA = "send it as an image block of a user message"
_HOSTED = "leave it out; hosted tools do not run here"
_SAMPLING = ("temperature", "top_p", "top_k")


def messages_structure(limits: Limits) -> Structure:
    """The table."""
    count = Field("max_tokens", Whole(1, _COUNT), "Most tokens of the answer.", required=True)
    return Structure([*_prompt_fields(limits), count, *_answer_fields(limits)])


def count_tokens_structure(limits: Limits) -> Structure:
    """The same without `max_tokens`: what the answer would be like does not matter."""
    count = Field("max_tokens", Whole(1, _COUNT), "nothing is made", State.NOTICED)
    return Structure([*_prompt_fields(limits), count, *_answer_fields(limits)])


def _type() -> Field:
    return Field("type", Text(1, 64), "Which kind it is.", required=True)


def _text_block() -> Structure:
    return Structure(
        [
            _type(),
            Field("text", Text(), "The text.", required=True),
            Field("citations", Json(list), "nothing is cited", State.NOTICED, unless=([],)),
            cache_control_field(),
        ]
    )


def _document_block() -> Structure:
    source = Structure(
        [
            _type(),
            Field("media_type", OneOf(("text/plain",)), "text/plain."),
            Field("data", Text(), "The text.", required=True),
        ]
    )
    refused = dict.fromkeys(("base64", "url", "file", "content"), "send source type text")
    return Structure(
        [
            _type(),
            Field("source", Tagged("type", {"text": source}, refused), "The text.", required=True),
            Field("title", Text(0, 500), "Written before the text."),
            Field("context", Text(), "Written before the text."),
            Field("citations", Json(dict), "nothing is cited", State.NOTICED),
            cache_control_field(),
        ]
    )


def _result_block() -> Structure:
    part = Tagged(
        "type",
        {"text": _text_block(), "document": _document_block()},
        {"image": _MEDIA, "search_result": "send it as text"},
    )
    return Structure(
        [
            _type(),
            Field("tool_use_id", Text(1, 256), "The call it answers.", required=True),
            Field(
                "content",
                AnyOf((Text(), ListOf(part)), "a string or a list of blocks"),
                "What came of it.",
            ),
            Field("is_error", Flag(), "The call failed; the model is told.", default=False),
            cache_control_field(),
        ]
    )


def _content_kind() -> AnyOf:
    use = Structure(
        [
            _type(),
            Field("id", Text(1, 256), "What the result refers to.", required=True),
            Field("name", Text(1, 256), "The tool.", required=True),
            Field("input", Json(dict), "Its arguments.", required=True),
            Field(
                "caller",
                Json(dict),
                "nothing depends on it",
                State.NOTICED,
                unless=({"type": "direct"},),
            ),
            cache_control_field(),
        ]
    )
    thinking = Structure(
        [
            _type(),
            Field("thinking", Text(), "What the assistant thought.", required=True),
            Field("signature", Text(), "Taken as it comes; nothing depends on it."),
            cache_control_field(),
        ]
    )
    redacted = Structure([_type(), Field("data", Text(), "nobody here can read it", State.NOTICED)])
    hosted = ("server_tool_use", "web_search_tool_result", "web_fetch_tool_result")
    block = Tagged(
        "type",
        {
            "text": _text_block(),
            "document": _document_block(),
            "image": messages_picture(cache_control_field()),
            "tool_use": use,
            "tool_result": _result_block(),
            "thinking": thinking,
            "redacted_thinking": redacted,
        },
        {"search_result": "send it as text", **dict.fromkeys(hosted, _HOSTED)},
    )
    return AnyOf((Text(), ListOf(block, 1)), "a string or a list of blocks")


def _prompt_fields(limits: Limits) -> list[Field]:
    message = Structure(
        [
            Field("role", OneOf(("user", "assistant", "system")), "Who speaks.", required=True),
            Field("content", _content_kind(), "What is said.", required=True),
        ]
    )
    system = ListOf(Tagged("type", {"text": _text_block()}, {"image": _MEDIA}), 0, 1024)
    return [
        Field("model", Text(1, 512), "A served name; may be left out when one is served."),
        Field("messages", ListOf(message, 1, limits.messages), "The conversation.", required=True),
        Field("system", AnyOf((Text(), system), "a string or a list of text blocks"), "Rules."),
        Field("tools", ListOf(ToolKind(), 0, limits.tools), "Tools the model may call."),
        Field("tool_choice", choice_kind(), "Whether and which tool is called."),
        Field("thinking", _thinking(), "Turns thinking on or off where the template can."),
        Field("output_config", _output(), "Effort, and a JSON schema that the answer matches."),
        Field(
            "output_format",
            _format(),
            "the older name of output_config.format",
            State.NOTICED,
            notice="deprecated_field",
        ),
        cache_control_field(),
    ]


def _thinking() -> Tagged:
    display = Field("display", Text(0, 64), "thoughts are shown as they are", State.NOTICED)
    budget = Field(
        "budget_tokens",
        Whole(1024, _COUNT),
        "Thinking ends after so many tokens; below max_tokens.",
        required=True,
    )
    between = Field("type", Text(), "the chat template decides", State.NOTICED)
    return Tagged(
        "type",
        {
            "enabled": Structure([_type(), budget, display]),
            "adaptive": Structure([_type(), display]),
            "disabled": Structure([_type()]),
            "between_tools": Structure([between, display]),
        },
        {},
    )


def _format() -> Tagged:
    shape = Structure([_type(), Field("schema", Json(dict), "The schema.", required=True)])
    return Tagged("type", {"json_schema": shape}, {})


def _output() -> Structure:
    efforts = OneOf(("low", "medium", "high", "xhigh", "max"))
    return Structure(
        [
            Field("effort", efforts, "For templates that read it; thinking is on."),
            Field("format", _format(), "The answer matches this JSON schema."),
        ]
    )


def _answer_fields(limits: Limits) -> list[Field]:
    stop = ListOf(Text(1, limits.stop_characters), 0, limits.stop_strings)
    metadata = Structure([Field("user_id", Text(0, 1024), "A label; nothing depends on it.")])
    tiers = ("auto", "standard_only", "standard")
    noticed = State.NOTICED
    return [
        Field("stop_sequences", stop, "Text is cut before the first of these."),
        Field("stream", Flag(), "Send server-sent events.", default=False),
        *(field for field in sampling_fields(limits) if field.name in _SAMPLING),
        Field("metadata", metadata, "A label of the caller."),
        Field("service_tier", Text(0, 64), "there is one tier", noticed, unless=tiers),
        Field("speed", Text(0, 64), "there is one speed", noticed, unless=("standard",)),
        Field("inference_geo", Text(0, 64), "it runs where it runs", noticed),
        Field("diagnostics", Json(), "there are none", noticed),
        Field("user_profile_id", Text(0, 1024), "nothing depends on it", noticed),
        Field("workspace_id", Text(0, 1024), "nothing depends on it", noticed),
        Field("container", Json(), "there are no containers", noticed),
        Field("context_management", Json(dict), "the context is left as it is", noticed),
        Field("mcp_servers", Json(list), "no server is called", noticed, unless=([],)),
    ]
