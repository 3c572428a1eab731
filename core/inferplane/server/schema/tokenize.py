"""The fields of POST /tokenize and POST /detokenize."""

from __future__ import annotations

from dataclasses import replace

from inferplane.server.limits import Limits
from inferplane.server.schema.chat import prompt_fields
from inferplane.server.schema.fields import Field, Structure
from inferplane.server.schema.kinds import Flag, Text, TokenIds

__all__ = ["detokenize_structure", "tokenize_structure"]


def tokenize_structure(limits: Limits) -> Structure:
    """A prompt, or messages with whatever shapes their prompt."""
    optional = [replace(field, required=False) for field in prompt_fields(limits)]
    return Structure(
        [
            Field("model", Text(1, 512), "A served name; may be left out when one is served."),
            Field("prompt", Text(), "The text."),
            *optional,
            Field("add_special_tokens", Flag(), "As the tokenizer begins texts."),
            Field("return_token_strs", Flag(), "Also send each token's text.", default=False),
        ]
    )


def detokenize_structure() -> Structure:
    """Token ids."""
    return Structure(
        [
            Field("model", Text(1, 512), "A served name; may be left out when one is served."),
            Field("tokens", TokenIds(0), "The ids.", required=True),
        ]
    )
