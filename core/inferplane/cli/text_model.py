"""What `chat` and `generate` talk to: a model here or behind a URL, behind one small protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

__all__ = ["Message", "Sampling", "TextModel"]

Message: TypeAlias = Mapping[str, str]
"""`role` and `content`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """What the user asked for; None = the model's own default."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def given(self) -> dict[str, float | int | list[str]]:
        """The asked ones, by their names in the OpenAI API."""
        named = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
            "stop": list(self.stop) or None,
        }
        return {name: value for name, value in named.items() if value is not None}


class TextModel(Protocol):
    """A model that answers in pieces of text. Abandoning an iterator ends its request."""

    name: str

    def chat(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[str]:
        """The reply to a conversation. Raises InferplaneError."""
        ...

    def complete(self, prompt: str, sampling: Sampling) -> AsyncIterator[str]:
        """What follows `prompt`. Raises InferplaneError."""
        ...

    async def close(self) -> None:
        """Give back what it holds."""
        ...
