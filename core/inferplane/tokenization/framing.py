"""Texts as models for whole texts read them: special tokens around, two texts in one, cut to fit.

A cut takes away text, never the special tokens that frame it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tokenizers import Encoding

from inferplane.tokenization.tokenizer import Tokenizer

__all__ = ["Framed", "Side", "frame_pair", "frame_text"]

Side = Literal["left", "right"]
"""Which end of a text is cut off."""


@dataclass(frozen=True, slots=True)
class Framed:
    """Token ids ready for the model."""

    ids: list[int]
    full_size: int
    """Tokens it would have had uncut."""
    second_start: int = 0
    """First token of the second text, where the model tells the two apart; 0 = it does not."""


def frame_text(
    tokenizer: Tokenizer,
    text: str,
    most: int | None = None,
    side: Side = "right",
    *,
    special_tokens: bool = True,
) -> Framed:
    """One text in at most `most` tokens. Raises ValueError for a lone surrogate."""
    encoding = _encoded(tokenizer, text)
    extra = tokenizer.backend.num_special_tokens_to_add(False) if special_tokens else 0
    full = len(encoding.ids) + extra
    _cut(encoding, most, extra, side)
    if special_tokens:
        encoding = tokenizer.backend.post_process(encoding, None, True)
    return Framed(encoding.ids, full)


def frame_pair(
    tokenizer: Tokenizer,
    first: str,
    second: str,
    most: int | None = None,
    second_most: int | None = None,
) -> Framed:
    """Two texts as one, the second in at most `second_most` tokens of its own.

    To come down to `most` the second gives way, and the first where that is not enough. Raises
    ValueError for a lone surrogate.
    """
    one, two = _encoded(tokenizer, first), _encoded(tokenizer, second)
    extra = tokenizer.backend.num_special_tokens_to_add(True)
    full = len(one.ids) + len(two.ids) + extra
    _cut(two, second_most, 0, "right")
    _cut(two, most, extra + len(one.ids), "right")
    _cut(one, most, extra + len(two.ids), "right")
    framed = tokenizer.backend.post_process(one, two, True)
    types = framed.type_ids
    return Framed(framed.ids, full, types.index(1) if 1 in types else 0)


def _encoded(tokenizer: Tokenizer, text: str) -> Encoding:
    try:
        return tokenizer.backend.encode(text, add_special_tokens=False)
    except (TypeError, UnicodeEncodeError):
        raise ValueError("the text holds a lone surrogate, which is not Unicode text") from None


def _cut(encoding: Encoding, most: int | None, others: int, side: Side) -> None:
    """Keep what fits beside `others` tokens."""
    if most is not None and len(encoding.ids) > (room := max(most - others, 0)):
        encoding.truncate(room, direction=side)
