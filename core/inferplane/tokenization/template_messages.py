"""What crosses between `chat_template.py` and the process that renders; loads no Jinja."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["Answer", "Described", "Greeting", "Render"]


class Greeting(msgspec.Struct, frozen=True):
    """The template this process is for."""

    source: str
    special_tokens: dict[str, str]
    picture_mark: str = ""
    """What the template writes for a picture; "" = the model takes none."""


class Described(msgspec.Struct, frozen=True):
    """What a template reads and takes; `fault` says why it cannot be used."""

    names: tuple[str, ...] = ()
    """Names it reads that are not its own."""
    takes_strings: bool = True
    takes_parts: bool = False
    takes_pictures: bool = False
    """A part of type image comes out as one mark."""
    fault: str = ""


class Render(msgspec.Struct, frozen=True):
    """One conversation, as the template sees it."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    documents: list[dict[str, Any]] | None
    add_generation_prompt: bool
    kwargs: dict[str, Any]


class Answer(msgspec.Struct, frozen=True):
    """The text, or why there is none."""

    text: str = ""
    refused: str = ""
    """The template's own words: it called raise_exception."""
    fault: str = ""
    """What went wrong while it ran."""
