"""The fields of the routes that read whole texts: embeddings, pooling, score, rerank, classify."""

from __future__ import annotations

from dataclasses import replace

from inferplane.server.limits import Limits
from inferplane.server.schema.chat import prompt_fields
from inferplane.server.schema.fields import Field, State, Structure
from inferplane.server.schema.kinds import AnyOf, Flag, Kind, ListOf, OneOf, Text, TokenIds, Whole

__all__ = [
    "classify_structure",
    "embedding_structure",
    "pooling_structure",
    "rerank_structure",
    "score_structure",
]

_COUNT = (1 << 31) - 1


def embedding_structure(limits: Limits) -> Structure:
    """POST /v1/embeddings."""
    return Structure(
        [
            *_text_fields(limits, "What to embed."),
            *_vector_fields(),
            Field("dimensions", Whole(1, 1 << 20), "Length, for models trained to be shortened."),
            *_common_fields(),
        ]
    )


def pooling_structure(limits: Limits) -> Structure:
    """POST /pooling."""
    return Structure(
        [
            *_text_fields(limits, "What to read."),
            Field("task", OneOf(("embed", "classify", "score")), "Default: what the model does."),
            *_vector_fields(),
            *_common_fields(),
        ]
    )


def classify_structure(limits: Limits) -> Structure:
    """POST /classify."""
    return Structure([*_text_fields(limits, "What to classify."), *_common_fields()])


def score_structure(limits: Limits) -> Structure:
    """POST /score."""
    many = _texts(limits)
    return Structure(
        [
            _model(),
            Field("text_1", many, "The query, or one for each text_2.", required=True),
            Field("text_2", many, "What to score against it.", required=True),
            *_common_fields(ids=False),
        ]
    )


def rerank_structure(limits: Limits) -> Structure:
    """POST /rerank, as Cohere and Jina have it."""
    document = AnyOf(
        (Text(1), Structure([Field("text", Text(1), "The document.", required=True)])),
        "a string or an object with text",
    )
    return Structure(
        [
            _model(),
            Field("query", Text(1), "What is looked for.", required=True),
            Field(
                "documents",
                ListOf(document, 1, limits.pooled_inputs),
                "What to order.",
                required=True,
            ),
            Field("top_n", Whole(1, _COUNT), "Send so many of the best; default: all."),
            Field("max_tokens_per_doc", Whole(1, _COUNT), "Read so many tokens of each document."),
            Field("return_documents", Flag(), "Send the documents back.", default=True),
            Field(
                "rank_fields",
                ListOf(Text(), 0, 64),
                "documents have one text",
                State.NOTICED,
                unless=(["text"],),
            ),
            *_common_fields(ids=False),
        ]
    )


def _model() -> Field:
    return Field("model", Text(1, 512), "A served name; may be left out when one is served.")


def _texts(limits: Limits) -> Kind:
    many = ListOf(Text(1), 1, limits.pooled_inputs)
    return AnyOf((Text(1), many), "a string or a list of strings")


def _text_fields(limits: Limits, doc: str) -> list[Field]:
    text, ids = Text(1), TokenIds(1)
    many = ListOf(AnyOf((text, ids), "a string or a list of token ids"), 1, limits.pooled_inputs)
    kind = AnyOf(
        (text, ids, many), "a string, a list of strings, a list of token ids or a list of such"
    )
    optional = [replace(field, required=False) for field in prompt_fields(limits)]
    chat = [field for field in optional if field.name in _CHAT]
    return [_model(), Field("input", kind, f"{doc} Or messages."), *chat]


_CHAT = ("messages", "add_generation_prompt", "continue_final_message", "chat_template_kwargs")


def _vector_fields() -> list[Field]:
    return [
        Field(
            "encoding_format",
            OneOf(("float", "base64")),
            "base64 holds little-endian float32.",
            default="float",
        ),
        Field("normalize", Flag(), "Give vectors length 1; default as the model's files say."),
    ]


def _common_fields(*, ids: bool = True) -> list[Field]:
    special = Field("add_special_tokens", Flag(), "Frame texts as the tokenizer does.")
    side = Field("truncation_side", OneOf(("left", "right")), "The end cut off.", default="right")
    return [
        Field(
            "truncate_prompt_tokens",
            Whole(1, _COUNT, also=(-1,)),
            "Cut texts to so many tokens; -1 = to what the model reads.",
        ),
        *((side, special) if ids else ()),
        Field("priority", Whole(-_COUNT, _COUNT), "Smaller runs first, under that policy."),
        Field("user", Text(0, 1024), "A label; nothing depends on it."),
    ]
