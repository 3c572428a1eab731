"""Fields that every generating route shares: how tokens are drawn, when generation ends."""

from __future__ import annotations

from inferplane.server.limits import Limits
from inferplane.server.schema.fields import Field, State, Structure
from inferplane.server.schema.kinds import (
    AnyOf,
    Flag,
    Json,
    ListOf,
    MapOf,
    Number,
    OneOf,
    Text,
    TokenIds,
    Whole,
)
from inferplane.server.schema.structured import structured_fields

__all__ = [
    "INT64",
    "other_server_fields",
    "sampling_fields",
    "stream_fields",
    "thinking_budget_field",
]

INT64 = (-(1 << 63), (1 << 63) - 1)
_COUNT = (1 << 31) - 1


def sampling_fields(limits: Limits) -> list[Field]:
    """Temperature, cuts, penalties, lengths, stops, token lists, and the form of the answer."""
    return [*_drawing_fields(limits), *_ending_fields(limits), *_prompt_and_answer_fields(limits)]


def _drawing_fields(limits: Limits) -> list[Field]:
    return [
        Field("temperature", Number(0, 2), "0 (or below 1e-5) is greedy.", default=1),
        Field("top_p", Number(0, 1, above=True), "Keep the likeliest tokens up to this mass."),
        Field("min_p", Number(0, 1), "Drop tokens below this share of the likeliest one."),
        Field("top_k", Whole(1, _COUNT, also=(-1, 0)), "Keep so many tokens; -1 = all."),
        Field("presence_penalty", Number(-2, 2), "Taken from tokens seen in the output."),
        Field("frequency_penalty", Number(-2, 2), "The same, for each time they were seen."),
        Field("repetition_penalty", Number(0, 10, above=True), "Divides logits of seen tokens."),
        Field("seed", Whole(*INT64), "Equal requests with equal seeds give equal output."),
        Field("n", Whole(1, limits.n), "Choices for each prompt.", default=1),
    ]


def _ending_fields(limits: Limits) -> list[Field]:
    ids = limits.token_ids
    stop = Text(1, limits.stop_characters)
    return [
        Field("min_tokens", Whole(0, _COUNT), "Tokens before which nothing stops."),
        Field(
            "stop",
            AnyOf(
                (stop, ListOf(stop, 0, limits.stop_strings, skip_null=True)),
                "a string or a list of strings",
            ),
            "Text is cut before the first of these.",
        ),
        Field("stop_token_ids", TokenIds(0, ids), "Token ids that end generation."),
        Field("ignore_eos", Flag(), "Go on after the model's end token."),
        Field("include_stop_str_in_output", Flag(), "Keep the stop string in the text."),
        Field(
            "logit_bias",
            MapOf(r"(0|[1-9][0-9]{0,9})", "a decimal token id", Number(-100, 100), ids),
            "Token id -> what is added to its logit.",
        ),
        Field("allowed_token_ids", TokenIds(1, ids), "Only these tokens may be drawn."),
        Field("bad_words", ListOf(Text(1, 256), 0, ids), "Words that must not be completed."),
    ]


def _prompt_and_answer_fields(limits: Limits) -> list[Field]:
    return [
        Field("skip_special_tokens", Flag(), "Leave special tokens out of texts.", default=True),
        Field(
            "spaces_between_special_tokens",
            Flag(),
            "Texts are joined without such spaces, whatever is asked.",
            default=True,
        ),
        Field("prompt_logprobs", Whole(0, limits.logprobs), "Score the prompt, so many a token."),
        Field(
            "truncate_prompt_tokens",
            Whole(1, _COUNT, also=(-1,)),
            "Cut the prompt to so many tokens; -1 = to what fits.",
        ),
        Field("truncation_side", OneOf(("left", "right")), "left keeps the end.", default="left"),
        Field("add_special_tokens", Flag(), "Begin the prompt as the tokenizer begins texts."),
        Field("priority", Whole(-_COUNT, _COUNT), "Smaller runs first, under that policy."),
        Field(
            "cache_salt",
            Text(1, limits.cache_salt_characters),
            "Prefixes are shared only within equal salts of one key.",
        ),
        Field("return_token_ids", Flag(), "Also send prompt and output ids.", default=False),
        Field(
            "return_tokens_as_token_ids",
            Flag(),
            'Write tokens in logprobs as "token_id:N".',
            default=False,
        ),
        Field("timings", Flag(), "Add timings to the answer.", default=False),
        Field("user", Text(0, 1024), "A label; nothing depends on it."),
    ]


def thinking_budget_field() -> Field:
    """For routes that tell thoughts from answers."""
    return Field(
        "thinking_token_budget",
        Whole(0, _COUNT, also=(-1,)),
        "Thinking ends after so many tokens; -1 = whenever the model ends it.",
        default=-1,
    )


def stream_fields() -> list[Field]:
    """How the answer is sent."""
    options = Structure(
        [
            Field("include_usage", Flag(), "A last chunk with token counts.", default=False),
            Field("continuous_usage_stats", Flag(), "Counts in every chunk.", default=False),
            Field(
                "include_obfuscation",
                Flag(),
                "frames are never padded",
                State.NOTICED,
                unless=(False,),
            ),
        ]
    )
    return [
        Field("stream", Flag(), "Send server-sent events.", default=False),
        Field("stream_options", options, "Only with stream."),
    ]


def other_server_fields() -> list[Field]:
    """What other servers take and this one refuses or ignores, each with its way out."""
    code = "it carries code, a serialised object or another server's state"
    unsafe = [
        Field(name, Json(), code, State.REFUSED, hint="leave it out")
        for name in ("logits_processors", "prompt_embeds", "kv_transfer_params")
    ]
    beam = Field(
        "use_beam_search",
        Flag(),
        "beam search is not offered",
        State.REFUSED,
        unless=(False,),
        hint="use n and temperature",
    )
    return [*structured_fields(), *unsafe, beam]
