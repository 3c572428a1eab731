"""The fields of POST /v1/chat/completions, and of the messages in it."""

from __future__ import annotations

from inferplane.server.limits import Limits
from inferplane.server.schema.fields import Field, State, Structure, Tagged
from inferplane.server.schema.kinds import AnyOf, Flag, Json, ListOf, MapOf, OneOf, Text, Whole
from inferplane.server.schema.pictures import chat_picture
from inferplane.server.schema.sampling import (
    other_server_fields,
    sampling_fields,
    stream_fields,
    thinking_budget_field,
)
from inferplane.server.schema.structured import response_format_field
from inferplane.server.schema.tools import tool_fields

__all__ = ["chat_structure", "content_kind", "message_kind", "prompt_fields"]

_MEDIA = "send text or image_url; other media are not taken"


def content_kind() -> AnyOf:
    """A string, or a list of text and picture parts."""
    text = Structure(
        [
            Field("type", Text(1, 64), "Which part it is.", required=True),
            Field("text", Text(), "The text.", required=True),
            Field("cache_control", Json(dict), "prefix caching is automatic", State.NOTICED),
        ]
    )
    refusal = Structure(
        [
            Field("type", Text(1, 64), "Which part it is.", required=True),
            Field("refusal", Text(), "What was refused.", required=True),
        ]
    )
    media = ("input_audio", "video_url", "audio_url", "input_image", "file", "image")
    part = Tagged(
        "type",
        {
            "text": text,
            "input_text": text,
            "output_text": text,
            "refusal": refusal,
            "image_url": chat_picture(),
        },
        dict.fromkeys(media, _MEDIA),
    )
    return AnyOf((Text(), ListOf(part, 1)), "a string or a list of parts")


def message_kind(limits: Limits) -> Structure:
    """One message of any role."""
    function = Structure(
        [
            Field("name", Text(1, 256), "The function's name.", required=True),
            Field(
                "arguments",
                AnyOf((Text(), Json(dict)), "a string or an object"),
                "Its arguments.",
                required=True,
            ),
        ]
    )
    call = Structure(
        [
            Field("id", Text(0, 256), "What the result refers to."),
            Field("type", OneOf(("function",)), "The kind of call."),
            Field("index", Whole(0, 1 << 20), "As streams number it."),
            Field("function", function, "What was called.", required=True),
        ]
    )
    return Structure(
        [
            Field("role", Text(1, 64), "Who speaks.", required=True),
            Field("content", content_kind(), "What is said."),
            Field("name", Text(0, 256), "A label of the speaker."),
            Field("tool_calls", ListOf(call, 0, limits.tools), "What the assistant called."),
            Field("tool_call_id", Text(0, 256), "Which call this is the result of."),
            Field("reasoning", Text(), "What the assistant thought."),
            Field("reasoning_content", Text(), "The same, by its other name."),
            Field("refusal", Text(), "has no place in a prompt", State.NOTICED),
            Field("annotations", Json(list), "have no place", State.NOTICED, unless=([],)),
            Field("audio", Json(), _MEDIA, State.REFUSED),
            Field(
                "function_call",
                Json(dict),
                "the older form of tool_calls",
                State.REFUSED,
                hint="send tool_calls",
            ),
        ]
    )


def prompt_fields(limits: Limits) -> list[Field]:
    """How messages become a prompt; shared with /tokenize."""
    return [
        Field(
            "messages",
            ListOf(message_kind(limits), 1, limits.messages),
            "The conversation.",
            required=True,
        ),
        Field("add_generation_prompt", Flag(), "End with the opening of an answer.", default=True),
        Field("continue_final_message", Flag(), "Go on with the last message.", default=False),
        Field(
            "chat_template_kwargs",
            MapOf(r"[^\W\d]\w*", "a name", Json(), 64),
            "Names that the chat template reads.",
        ),
        Field("documents", ListOf(Json(dict), 0, 1024), "For templates that read them."),
        Field(
            "chat_template",
            Text(),
            "templates come from the model or the operator",
            State.REFUSED,
            hint="start the server with --chat-template",
        ),
        *tool_fields(limits),
    ]


def chat_structure(limits: Limits) -> Structure:
    """The table."""
    count = Whole(1, (1 << 31) - 1)
    return Structure(
        [
            Field("model", Text(1, 512), "A served name; may be left out when one is served."),
            *prompt_fields(limits),
            Field("max_tokens", count, "Most tokens; the older name."),
            Field("max_completion_tokens", count, "Most tokens; default: what fits."),
            Field("logprobs", Flag(), "Also send log-probabilities.", default=False),
            Field("top_logprobs", Whole(0, limits.logprobs), "Alternatives; needs logprobs."),
            Field("echo", Flag(), "Begin with the message that is continued.", default=False),
            Field("include_reasoning", Flag(), "Show what the model thought.", default=True),
            Field("reasoning_effort", Text(1, 64), "none turns thinking off where it can be."),
            thinking_budget_field(),
            Field("safety_identifier", Text(0, 1024), "A label; nothing depends on it."),
            Field("prompt_cache_key", Text(0, 1024), "A label; caching is automatic."),
            *_remote_fields(),
            *_later_fields(),
            *sampling_fields(limits),
            *stream_fields(),
            *other_server_fields(),
        ]
    )


def _remote_fields() -> list[Field]:
    """Fields of hosted services: without effect here, or impossible."""
    noticed = State.NOTICED
    return [
        Field(
            "service_tier", Text(0, 64), "there is one tier", noticed, unless=("auto", "default")
        ),
        Field("metadata", Json(dict), "nothing is stored", noticed, unless=({},)),
        Field("store", Flag(), "nothing is stored", noticed, unless=(False,)),
        Field("prediction", Json(dict), "predictions are not used", noticed),
        Field("prompt_cache_options", Json(dict), "caching is automatic", noticed),
        Field("prompt_cache_retention", Text(0, 64), "caching is automatic", noticed),
        Field("verbosity", Text(0, 64), "the model has no such control", noticed),
        Field(
            "modalities",
            Json(list),
            "answers are text",
            State.REFUSED,
            unless=(["text"],),
            hint='send ["text"] or leave it out',
        ),
        Field("audio", Json(), "answers are text", State.REFUSED, hint="leave it out"),
        Field("moderation", Json(), "there is no moderation", State.REFUSED, hint="leave it out"),
        Field("web_search_options", Json(), "there is no web search", State.REFUSED),
        Field("mm_processor_kwargs", Json(), "the model's own values hold", State.REFUSED),
        Field("media_io_kwargs", Json(), "the server's own limits hold", State.REFUSED),
    ]


def _later_fields() -> list[Field]:
    return [
        response_format_field(),
        Field(
            "stream_tool_arguments",
            Flag(),
            "calls are sent when they are complete",
            State.NOTICED,
            unless=(False,),
        ),
    ]
