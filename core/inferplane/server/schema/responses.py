"""The fields of POST /v1/responses."""

from __future__ import annotations

from inferplane.server.limits import Limits
from inferplane.server.schema.fields import Field, State, Structure, Tagged
from inferplane.server.schema.kinds import (
    Flag,
    Json,
    ListOf,
    MapOf,
    OneOf,
    Text,
    Whole,
)
from inferplane.server.schema.responses_items import input_kind
from inferplane.server.schema.responses_tools import tool_fields
from inferplane.server.schema.sampling import sampling_fields, thinking_budget_field

__all__ = [
    "LOGPROBS",
    "compacted_structure",
    "counted_structure",
    "metadata_field",
    "responses_structure",
]

LOGPROBS = "message.output_text.logprobs"
"""The member of `include` that asks for log-probabilities."""
_INCLUDABLE = (
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    LOGPROBS,
    "message.input_image.image_url",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
)
_SHARED = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "priority",
    "cache_salt",
    "user",
)
"""Fields that every generating route takes and that mean the same here."""
_COUNTED = (
    "model",
    "input",
    "instructions",
    "previous_response_id",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "text",
    "reasoning",
    "truncation",
    "conversation",
)
_COMPACTED = (
    "model",
    "instructions",
    "previous_response_id",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "service_tier",
    "priority",
    "cache_salt",
)


def responses_structure(limits: Limits) -> Structure:
    """The table."""
    return Structure(
        [
            Field("model", Text(1, 512), "A served name; may be left out when one is served."),
            Field("input", input_kind(limits), "A text or items.", required=True),
            Field("instructions", Text(), "Comes first, as system message; never carried over."),
            Field("previous_response_id", Text(1, 256), "Go on from that stored answer."),
            Field("max_output_tokens", Whole(1, (1 << 31) - 1), "Default: what fits."),
            *tool_fields(limits),
            _text_field(),
            _reasoning_field(),
            thinking_budget_field(),
            Field("include", ListOf(OneOf(_INCLUDABLE), 0, 16), f"Only {LOGPROBS} has an effect."),
            Field("top_logprobs", Whole(0, limits.logprobs), "Alternatives for each token."),
            Field("truncation", OneOf(("auto", "disabled")), "auto leaves out old items."),
            Field("store", Flag(), "Keep the answer for later requests.", default=True),
            Field("background", Flag(), "Answer at once; poll for the result.", default=False),
            Field("stream", Flag(), "Send server-sent events.", default=False),
            _stream_options(),
            metadata_field(),
            Field("safety_identifier", Text(0, 1024), "A label; nothing depends on it."),
            Field("prompt_cache_key", Text(0, 1024), "A label; caching is automatic."),
            *(field for field in sampling_fields(limits) if field.name in _SHARED),
            *_remote_fields(),
        ]
    )


def counted_structure(limits: Limits) -> Structure:
    """The part of the table that a prompt depends on."""
    fields = responses_structure(limits).fields
    return Structure([field for name, field in fields.items() if name in _COUNTED])


def compacted_structure(limits: Limits) -> Structure:
    """The table of /compact, whose conversation may be a stored answer's alone."""
    fields = responses_structure(limits).fields
    given = Field("input", input_kind(limits), "A text or items.")
    return Structure([given, *(fields[name] for name in _COMPACTED)])


def metadata_field() -> Field:
    """Labels that are stored and told again."""
    pairs = MapOf(r"[\s\S]{1,64}", "of 1 to 64 characters", Text(0, 512), 16)
    return Field("metadata", pairs, "Labels, kept with the answer.")


def _text_field() -> Field:
    kind = Field("type", Text(), "Which format.", required=True)
    schema = Structure(
        [
            kind,
            Field("name", Text(1, 64, r"[A-Za-z0-9_-]{1,64}"), "A label.", required=True),
            Field("description", Text(), "For people."),
            Field("schema", Json(dict), "The JSON schema.", required=True),
            Field("strict", Flag(), "It is always enforced.", default=True),
        ]
    )
    plain = Structure([kind])
    form = Tagged("type", {"text": plain, "json_object": plain, "json_schema": schema}, {})
    verbosity = "the model has no such control"
    return Field(
        "text",
        Structure(
            [
                Field("format", form, "Makes the answer match a JSON schema."),
                Field("verbosity", Text(0, 64), verbosity, State.NOTICED, unless=("medium",)),
            ]
        ),
        "Form of the text.",
    )


def _reasoning_field() -> Field:
    summaries = OneOf(("auto", "concise", "detailed"))
    whole = "Tell thoughts as a summary too, whole: all three mean the same."
    return Field(
        "reasoning",
        Structure(
            [
                Field("effort", Text(1, 64), "none turns thinking off where it can be."),
                Field("summary", summaries, whole),
                Field("generate_summary", summaries, "The older name of summary."),
            ]
        ),
        "How much is thought.",
    )


def _stream_options() -> Field:
    padding = Field(
        "include_obfuscation", Flag(), "frames are never padded", State.NOTICED, unless=(False,)
    )
    return Field("stream_options", Structure([padding]), "Only with stream.")


def _remote_fields() -> list[Field]:
    """Fields of hosted services: without effect here, or impossible."""
    noticed, refused = State.NOTICED, State.REFUSED
    one_tier = ("auto", "default")
    return [
        Field("service_tier", Text(0, 64), "there is one tier", noticed, unless=one_tier),
        Field("prompt_cache_options", Json(dict), "caching is automatic", noticed),
        Field("prompt_cache_retention", Text(0, 64), "caching is automatic", noticed),
        Field("context_management", Json(), "send truncation: auto", noticed),
        Field(
            "conversation",
            Json(),
            "conversations are not stored as objects",
            refused,
            hint="send previous_response_id",
        ),
        Field("prompt", Json(), "templates are not stored", refused, hint="send instructions"),
        Field("moderation", Json(), "there is no moderation", refused, hint="leave it out"),
    ]
