"""What an output turns out to be, piece by piece."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Content", "Emit", "Event", "Reasoning", "ToolCall"]


@dataclass(frozen=True, slots=True)
class Content:
    """Text for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """What the model thought."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One complete call; `arguments` is the JSON text of an object."""

    name: str
    arguments: str


Event: TypeAlias = Content | Reasoning | ToolCall
Emit: TypeAlias = Callable[[ToolCall], None]
"""Readers hand over each call as soon as it is complete."""
