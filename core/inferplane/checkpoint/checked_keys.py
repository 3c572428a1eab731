"""Typed, bounded access to the values of a JSON configuration."""

from __future__ import annotations

from collections.abc import Mapping

from inferplane.errors import ModelError

__all__ = ["CheckedKeys"]


class CheckedKeys:
    """One JSON object: each value is checked when it is read, or a ModelError names it."""

    def __init__(
        self, where: str, raw: Mapping[str, object], assumed: Mapping[str, object] | None = None
    ) -> None:
        """`where` names the file in messages; `assumed` holds values for keys left out."""
        self.where = where
        self.raw = raw
        self.assumed = assumed or {}

    def fault(self, key: str, value: object, accepted: str) -> ModelError:
        """The error saying that `value` is not what `key` accepts."""
        shown = repr(value) if len(repr(value)) < 80 else f"{repr(value)[:77]}…"
        return ModelError(f"{self.where}: {key} is {shown}, needs {accepted}")

    def find(self, *keys: str) -> object:
        """The value under the first of these names that is there, else the assumed one, or None."""
        for key in keys:
            if key in self.raw:  # an explicit null says "none", whatever is assumed
                return self.raw[key]
        return next((self.assumed[key] for key in keys if key in self.assumed), None)

    def integer(self, *keys: str, most: int, default: int | None = None) -> int:
        """An integer in 1..most; `default` where it is missing (None: it must be there)."""
        value = self.find(*keys)
        value = default if value is None else value
        if value is None:
            raise ModelError(f"{self.where}: has no {keys[0]}")
        if type(value) is not int or not 1 <= value <= most:
            raise self.fault(keys[0], value, f"an integer from 1 to {most}")
        return value

    def number(self, *keys: str, default: float | None, most: float = 1e12) -> float:
        """A finite number above 0."""
        value = self.find(*keys)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
            raise self.fault(keys[0], value, f"a number above 0, at most {most:g}")
        return float(value)

    def optional_number(self, key: str) -> float | None:
        """A number above 0, or None where it is missing."""
        return None if self.find(key) is None else self.number(key, default=None)

    def flag(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self.find(key)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise self.fault(key, value, "true or false")
        return value

    def text(self, key: str, default: str) -> str:
        """A string."""
        value = self.find(key)
        value = default if value is None else value
        if not isinstance(value, str):
            raise self.fault(key, value, "a string")
        return value

    def mapping(self, key: str) -> Mapping[str, object]:
        """An object; {} where it is missing."""
        value = self.find(key)
        if value is not None and not isinstance(value, dict):
            raise self.fault(key, value, "an object")
        return value or {}
