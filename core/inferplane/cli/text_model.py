"""What `chat` and `generate` talk to: a model here or behind a URL, behind one small protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol, TypeAlias

from cyclopts import Parameter

from inferplane.errors import ConfigError

__all__ = ["Message", "Sampling", "TextModel"]

Message: TypeAlias = Mapping[str, str]
"""`role` and `content`."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """What the user asked for; None = the model's own default. Flags are made of its fields."""

    temperature: Annotated[float | None, Parameter(help="0 to 2; 0 is greedy.")] = None
    top_p: Annotated[float | None, Parameter(help="Above 0, up to 1.")] = None
    seed: Annotated[int | None, Parameter(help="Equal seeds give equal answers.")] = None
    max_tokens: Annotated[int | None, Parameter(help="Most tokens of an answer.")] = None
    stop: Annotated[
        tuple[str, ...], Parameter(help="End before this text; may repeat.", negative=())
    ] = ()

    def __post_init__(self) -> None:
        """Refuse what no server takes. Raises ConfigError."""
        bounds = (
            ("--temperature", self.temperature, 0.0, 2.0),
            ("--top-p", self.top_p, 1e-9, 1.0),
            ("--max-tokens", self.max_tokens, 1, 2**31 - 1),
        )
        for flag, value, least, most in bounds:
            if value is not None and not least <= value <= most:
                raise ConfigError(f"{flag}: {value} is not between {least} and {most}")

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
