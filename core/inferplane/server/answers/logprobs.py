"""Log-probabilities in the two shapes of the OpenAI API, and the prompt's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from inferplane.engine.messages import TokenLogprobs
from inferplane.tokenization.tokenizer import Tokenizer

__all__ = ["TokenNames", "chat_logprobs", "completion_logprobs", "prompt_logprobs"]

_LEAST = -9999.0
"""Stands for minus infinity, which JSON lacks; the OpenAI API does the same."""


@dataclass(frozen=True, slots=True)
class TokenNames:
    """How tokens are written in logprobs; with `as_ids`, as "token_id:N"."""

    tokenizer: Tokenizer
    as_ids: bool = False

    def of_chat(self, id: int) -> str:
        """Text, U+FFFD where the bytes are no characters; those are exact in `bytes`."""
        return f"token_id:{id}" if self.as_ids else self.tokenizer.token_text(id)

    def of_completion(self, id: int) -> str:
        """Text; tokens that are no characters are written as their bytes, so that they differ."""
        if self.as_ids:
            return f"token_id:{id}"
        data = self.tokenizer.token_bytes(id)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _finite(value: float) -> float:
    return value if value > _LEAST else _LEAST


def chat_logprobs(entries: Sequence[TokenLogprobs], names: TokenNames) -> dict[str, object]:
    """`{content: [...], refusal: null}`; alternatives are those the engine sent."""
    return {"content": [_chat_entry(entry, names) for entry in entries], "refusal": None}


def _chat_entry(entry: TokenLogprobs, names: TokenNames) -> dict[str, object]:
    made = _chat_token(entry.ids[0], entry.values[0], names)
    pairs = zip(entry.ids[1:], entry.values[1:], strict=True)
    made["top_logprobs"] = [_chat_token(id, value, names) for id, value in pairs]
    return made


def _chat_token(id: int, value: float, names: TokenNames) -> dict[str, object]:
    return {
        "token": names.of_chat(id),
        "logprob": _finite(value),
        "bytes": list(names.tokenizer.token_bytes(id)),
    }


def completion_logprobs(
    ids: Sequence[int],
    entries: Sequence[TokenLogprobs | None],
    offsets: Sequence[int],
    names: TokenNames,
) -> dict[str, object]:
    """Four lists, one member a token; a token without a score (a prompt's first) has nulls."""
    tops: list[dict[str, float] | None] = []
    values: list[float | None] = []
    for entry in entries:
        values.append(None if entry is None else _finite(entry.values[0]))
        tops.append(None if entry is None else _top(entry, names))
    return {
        "tokens": [names.of_completion(id) for id in ids],
        "token_logprobs": values,
        "top_logprobs": tops,
        "text_offset": list(offsets),
    }


def _top(entry: TokenLogprobs, names: TokenNames) -> dict[str, float]:
    """The best tokens, and the chosen one if it is not among them; likeliest first."""
    pairs = list(zip(entry.ids[1:], entry.values[1:], strict=True))
    if entry.ids[0] not in entry.ids[1:]:
        pairs.append((entry.ids[0], entry.values[0]))
    return {names.of_completion(id): _finite(value) for id, value in pairs}


def prompt_logprobs(
    entries: Sequence[TokenLogprobs | None], names: TokenNames
) -> list[dict[str, dict[str, object]] | None]:
    """One object a prompt token: id -> logprob, rank and text; null for the first."""
    return [None if entry is None else _by_id(entry, names) for entry in entries]


def _by_id(entry: TokenLogprobs, names: TokenNames) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = {}
    for rank, (id, value) in enumerate(zip(entry.ids[1:], entry.values[1:], strict=True), 1):
        found[str(id)] = _ranked(id, value, rank, names)
    given = str(entry.ids[0])
    if given not in found:
        found[given] = _ranked(entry.ids[0], entry.values[0], entry.rank or None, names)
    return found


def _ranked(id: int, value: float, rank: int | None, names: TokenNames) -> dict[str, object]:
    return {
        "logprob": _finite(value),
        "rank": rank,
        "decoded_token": names.tokenizer.token_text(id),
    }
