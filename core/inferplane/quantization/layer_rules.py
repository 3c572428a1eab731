"""Which layers a checkpoint's configuration names: exact names, parts of names, patterns."""

from __future__ import annotations

import re
from collections.abc import Iterable

from inferplane.errors import ModelError

__all__ = ["compile_pattern", "is_listed", "name_list"]

MAX_PATTERN = 512
MAX_NAMES = 100_000


def name_list(where: str, value: object) -> tuple[str, ...]:
    """A list of names, None being an empty one. Raises ModelError."""
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > MAX_NAMES:
        raise ModelError(f"{where}: needs a list of at most {MAX_NAMES} layer names")
    if not all(isinstance(name, str) for name in value):
        raise ModelError(f"{where}: holds something else than names")
    return tuple(value)


def compile_pattern(where: str, pattern: str) -> re.Pattern[str]:
    """A regular expression over layer names. Raises ModelError when it is none."""
    if len(pattern) > MAX_PATTERN:
        raise ModelError(f"{where}: a pattern is longer than {MAX_PATTERN} characters")
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ModelError(f"{where}: {pattern!r} is no regular expression: {error}") from None


def is_listed(layer: str, names: Iterable[str]) -> bool:
    """Whether a name is the layer, a part of its dotted path, or "re:" and a pattern for it."""
    for name in names:
        if name.startswith("re:"):
            if compile_pattern("quantization_config", name[3:]).match(layer):
                return True
        elif name == layer or f".{name}." in f".{layer}.":
            return True
    return False
