"""The fields of POST /v1/completions."""

from __future__ import annotations

from inferplane.server.limits import Limits
from inferplane.server.schema.fields import Field, State, Structure
from inferplane.server.schema.kinds import AnyOf, Flag, ListOf, Text, TokenIds, Whole
from inferplane.server.schema.sampling import other_server_fields, sampling_fields, stream_fields

__all__ = ["completion_structure"]


def completion_structure(limits: Limits) -> Structure:
    """The table."""
    text = Text(1)
    ids = TokenIds(1)
    many = ListOf(AnyOf((text, ids), "a string or a list of token ids"), 1, limits.prompts)
    prompt = AnyOf(
        (text, ids, many), "a string, a list of strings, a list of token ids or a list of such"
    )
    return Structure(
        [
            Field("model", Text(1, 512), "A served name; may be left out when one is served."),
            Field("prompt", prompt, "What to continue.", required=True),
            Field("echo", Flag(), "Begin the text with the prompt.", default=False),
            Field("logprobs", Whole(0, limits.logprobs), "Alternatives for each token."),
            Field("max_tokens", Whole(0, (1 << 31) - 1), "Most tokens; 0 with echo.", default=16),
            Field("best_of", Whole(1, limits.n), "Only the same value as n."),
            Field(
                "suffix",
                Text(),
                "the model cannot fill in the middle",
                State.REFUSED,
                unless=("",),
                hint="write the suffix into the prompt",
            ),
            *sampling_fields(limits),
            *stream_fields(),
            *other_server_fields(),
        ]
    )
