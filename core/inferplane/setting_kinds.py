"""Kinds of setting values: how text from a flag, a variable or a file becomes a value."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "FLAG",
    "NAMES",
    "PAIRS",
    "PATH",
    "SECONDS",
    "TEXT",
    "Kind",
    "choice",
    "count",
    "number",
    "whole",
]


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """How to read a value; `parse` takes text or a file's own type and raises ValueError."""

    accepts: str
    """What fits, as it stands after "is not" in an error."""
    parse: Callable[[object], object]
    word: str = "TEXT"
    """Stands for the value in a help text."""


def _text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError
    return str(value)


def _path(value: object) -> Path:
    return Path(_text(value)).expanduser()


_FLAGS = {"1": True, "true": True, "yes": True, "on": True}
_FLAGS |= {"0": False, "false": False, "no": False, "off": False}


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    try:
        return _FLAGS[_text(value).lower()]
    except KeyError:
        raise ValueError from None


def _names(value: object) -> tuple[str, ...]:
    parts = value if isinstance(value, (list, tuple)) else [value]
    return tuple(name.strip() for part in parts for name in _text(part).split(",") if name.strip())


def _pairs(value: object) -> dict[str, str]:
    if isinstance(value, Mapping):
        return {str(name): _text(one) for name, one in value.items()}
    pairs = {}
    for part in _names(value):
        name, equals, one = part.partition("=")
        if not (name and equals):
            raise ValueError
        pairs[name.strip()] = one.strip()
    return pairs


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}


def _seconds(value: object) -> float:
    match = re.fullmatch(r"([0-9.]+) *(ms|s|m|h|)", _text(value))
    if match is None:
        raise ValueError
    seconds = float(match[1]) * _UNITS[match[2]]
    if not math.isfinite(seconds):
        raise ValueError
    return seconds


TEXT = Kind("text", _text)
PATH = Kind("a path", _path, "PATH")
FLAG = Kind("true or false", _flag, "")
NAMES = Kind("names joined by commas", _names, "A,B")
PAIRS = Kind("name=value, joined by commas", _pairs, "A=B")
SECONDS = Kind("a duration such as 30, 30s, 500ms or 5m", _seconds, "SECONDS")


def choice(*accepted: str) -> Kind:
    """One of these words."""

    def parse(value: object) -> str:
        if value not in accepted:
            raise ValueError
        return str(value)

    return Kind(" or ".join(accepted), parse, "|".join(accepted))


def whole(least: int | None = None, most: int | None = None) -> Kind:
    """A whole number within bounds, without suffixes."""

    def parse(value: object) -> int:
        number = int(_text(value), 10)
        if (least is not None and number < least) or (most is not None and number > most):
            raise ValueError
        return number

    if least is not None and most is not None:
        return Kind(f"a whole number from {least} to {most}", parse, "N")
    bound = "" if least is None else f", at least {least}"
    return Kind(f"a whole number{bound}", parse, "N")


def count(least: int) -> Kind:
    """A whole number that may be written as 16k or 1M (powers of 1024)."""

    def parse(value: object) -> int:
        match = re.fullmatch(r"([0-9]+)([kKmM]?)", _text(value).replace("_", ""))
        if match is None:
            raise ValueError
        number = int(match[1]) * {"": 1, "k": 1024, "m": 1024**2}[match[2].lower()]
        if number < least:
            raise ValueError
        return number

    return Kind(f"a whole number such as 4096 or 4k, at least {least}", parse, "N")


def number(least: float, most: float) -> Kind:
    """A number within bounds."""

    def parse(value: object) -> float:
        parsed = float(_text(value))
        if not least <= parsed <= most:
            raise ValueError
        return parsed

    return Kind(f"a number from {least:g} to {most:g}", parse, "X")
