"""Kinds of JSON values: each checks strictly, and says in JSON Schema what it takes.

`check` returns the value, maybe normalised, or None after reporting a problem. Callers have dealt
with null, which equals "left out". Booleans are no numbers, `5.0` and `"5"` are no integers.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from inferplane.server.schema.report import Report

__all__ = [
    "AnyOf",
    "Flag",
    "Json",
    "Kind",
    "ListOf",
    "MapOf",
    "Number",
    "OneOf",
    "Text",
    "TokenIds",
    "Whole",
    "deeper_than",
    "named",
]


def named(value: object) -> str:
    """The JSON type of a value, with article."""
    names = {
        bool: "a boolean",
        int: "an integer",
        float: "a number",
        str: "a string",
        list: "a list",
        dict: "an object",
        type(None): "null",
    }
    return names[type(value)]


class Kind(ABC):
    """One kind of value."""

    wants: str
    """In words, with article."""

    @abstractmethod
    def check(self, value: object, path: str, report: Report) -> Any:
        """The value, or None after a problem."""

    @abstractmethod
    def schema(self) -> dict[str, Any]:
        """JSON Schema (draft 2020-12) of what is accepted."""

    def matches(self, value: object) -> bool:
        """Whether the value has this kind's JSON type, so that its problems are worth telling."""
        return True

    def mistyped(self, value: object, path: str, report: Report) -> None:
        """Report the wrong JSON type."""
        report.wrong("invalid_type", path, f"{path} must be {self.wants}, not {named(value)}")


@dataclass(frozen=True, slots=True)
class Flag(Kind):
    """true or false."""

    wants = "a boolean"

    def check(self, value: object, path: str, report: Report) -> bool | None:
        if isinstance(value, bool):
            return value
        self.mistyped(value, path, report)
        return None

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}

    def matches(self, value: object) -> bool:
        return isinstance(value, bool)


@dataclass(frozen=True, slots=True)
class Whole(Kind):
    """An integer within bounds, both included; `also` holds further accepted values."""

    low: int
    high: int
    also: tuple[int, ...] = ()
    code: str = "out_of_range"
    wants = "an integer"

    def check(self, value: object, path: str, report: Report) -> int | None:
        if type(value) is not int:
            self.mistyped(value, path, report)
        elif self.low <= value <= self.high or value in self.also:
            return value
        else:
            extra = "".join(f", or {one}" for one in self.also)
            shown = value if abs(value) < 10**20 else "a number this large"
            report.wrong(
                self.code, path, f"{path} {shown} is not in [{self.low}, {self.high}]{extra}"
            )
        return None

    def schema(self) -> dict[str, Any]:
        span: dict[str, Any] = {"type": "integer", "minimum": self.low, "maximum": self.high}
        return {"anyOf": [span, {"enum": list(self.also)}]} if self.also else span

    def matches(self, value: object) -> bool:
        return type(value) is int


@dataclass(frozen=True, slots=True)
class Number(Kind):
    """A finite number within bounds; `above` leaves the lower one out."""

    low: float
    high: float
    above: bool = False
    wants = "a number"

    def check(self, value: object, path: str, report: Report) -> float | None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.mistyped(value, path, report)
        elif self._within(value):
            return float(value)
        else:
            left = "(" if self.above else "["
            shown = f"{value:g}" if abs(value) < 1e300 else "a number this large"
            report.wrong(
                "out_of_range", path, f"{path} {shown} is not in {left}{self.low:g}, {self.high:g}]"
            )
        return None

    def _within(self, value: float) -> bool:
        if isinstance(value, float) and not math.isfinite(value):
            return False
        return value <= self.high and (value > self.low if self.above else value >= self.low)

    def schema(self) -> dict[str, Any]:
        low = "exclusiveMinimum" if self.above else "minimum"
        return {"type": "number", low: self.low, "maximum": self.high}

    def matches(self, value: object) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True)
class Text(Kind):
    """A string of so many characters."""

    low: int = 0
    high: int | None = None
    pattern: str = ""
    wants = "a string"

    def check(self, value: object, path: str, report: Report) -> str | None:
        if not isinstance(value, str):
            self.mistyped(value, path, report)
        elif len(value) < self.low or (self.high is not None and len(value) > self.high):
            at_most = f" and at most {self.high}" if self.high is not None else ""
            report.wrong(
                "out_of_range",
                path,
                f"{path} has {len(value)} characters; at least {self.low}{at_most} are accepted",
            )
        elif self.pattern and not re.fullmatch(self.pattern, value):
            report.wrong("unknown_value", path, f"{path} does not match {self.pattern}")
        else:
            return value
        return None

    def schema(self) -> dict[str, Any]:
        made: dict[str, Any] = {"type": "string"}
        if self.low:
            made["minLength"] = self.low
        if self.high is not None:
            made["maxLength"] = self.high
        if self.pattern:
            made["pattern"] = f"^{self.pattern}$"
        return made

    def matches(self, value: object) -> bool:
        return isinstance(value, str)


@dataclass(frozen=True, slots=True)
class OneOf(Kind):
    """One of a few strings."""

    values: tuple[str, ...]
    wants = "a string"

    def check(self, value: object, path: str, report: Report) -> str | None:
        if not isinstance(value, str):
            self.mistyped(value, path, report)
        elif value in self.values:
            return value
        else:
            known = ", ".join(self.values)
            report.wrong("unknown_value", path, f"{path} is not one of {known}")
        return None

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.values)}

    def matches(self, value: object) -> bool:
        return isinstance(value, str)


@dataclass(frozen=True, slots=True)
class ListOf(Kind):
    """A list of so many members; with `skip_null`, null members count as left out."""

    item: Kind
    low: int = 0
    high: int | None = None
    skip_null: bool = False
    wants = "a list"

    def check(self, value: object, path: str, report: Report) -> list[Any] | None:
        if not isinstance(value, list):
            self.mistyped(value, path, report)
            return None
        members = [m for m in value if m is not None] if self.skip_null else value
        if len(members) < self.low:
            report.wrong("out_of_range", path, f"{path} needs at least {self.low} members")
            return None
        if self.high is not None and len(members) > self.high:
            said = f"{path} has {len(members)} members; at most {self.high} are accepted"
            report.wrong("too_many_items", path, said)
            return None
        return [self.item.check(m, f"{path}.{index}", report) for index, m in enumerate(members)]

    def schema(self) -> dict[str, Any]:
        made: dict[str, Any] = {"type": "array", "items": self.item.schema()}
        if self.low:
            made["minItems"] = self.low
        if self.high is not None:
            made["maxItems"] = self.high
        return made

    def matches(self, value: object) -> bool:
        return isinstance(value, list)


@dataclass(frozen=True, slots=True)
class TokenIds(Kind):
    """A list of token ids. Their upper bound is the model's and checked once it is known."""

    low: int = 0
    high: int | None = None
    wants = "a list of token ids"

    def check(self, value: object, path: str, report: Report) -> list[int] | None:
        if not isinstance(value, list):
            self.mistyped(value, path, report)
            return None
        if len(value) < self.low or (self.high is not None and len(value) > self.high):
            code = "too_many_items" if len(value) >= self.low else "out_of_range"
            said = f"{path} has {len(value)} token ids"
            if self.high is not None:
                said += f"; {self.low} to {self.high} are accepted"
            report.wrong(code, path, said)
            return None
        plain = set(map(type, value)) <= {int}
        if not value or (plain and min(value) >= 0 and max(value) < 1 << 31):
            return value
        for index, member in enumerate(value):
            if Whole(0, (1 << 31) - 1).check(member, f"{path}.{index}", report) is None:
                break
        return None

    def schema(self) -> dict[str, Any]:
        item = {"type": "integer", "minimum": 0, "maximum": (1 << 31) - 1}
        made: dict[str, Any] = {"type": "array", "items": item, "minItems": self.low}
        if self.high is not None:
            made["maxItems"] = self.high
        return made

    def matches(self, value: object) -> bool:
        return isinstance(value, list) and not (value and isinstance(value[0], str | list))


@dataclass(frozen=True, slots=True)
class MapOf(Kind):
    """An object with keys of one pattern and values of one kind."""

    key: str
    """Pattern of a key."""
    key_name: str
    value: Kind
    high: int
    wants = "an object"

    def check(self, value: object, path: str, report: Report) -> dict[str, Any] | None:
        if not isinstance(value, dict):
            self.mistyped(value, path, report)
            return None
        if len(value) > self.high:
            said = f"{path} has {len(value)} entries; at most {self.high} are accepted"
            report.wrong("too_many_items", path, said)
            return None
        for name, member in value.items():
            where = f"{path}.{name[:64]}"
            if not re.fullmatch(self.key, name):
                report.wrong("unknown_value", where, f"{where}: the key is not {self.key_name}")
            elif member is None:
                self.value.mistyped(member, where, report)
        return {
            name: self.value.check(member, f"{path}.{name[:64]}", report)
            for name, member in value.items()
            if member is not None
        }

    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "propertyNames": {"pattern": f"^{self.key}$"},
            "additionalProperties": self.value.schema(),
            "maxProperties": self.high,
        }

    def matches(self, value: object) -> bool:
        return isinstance(value, dict)


@dataclass(frozen=True, slots=True)
class Json(Kind):
    """Any JSON of limited depth; with `of`, of that type at the top."""

    of: type | None = None
    depth: int = 64
    wants: str = field(default="JSON", init=False)

    def check(self, value: object, path: str, report: Report) -> Any:
        if self.of is not None and not isinstance(value, self.of):
            wants = named(self.of())
            report.wrong("invalid_type", path, f"{path} must be {wants}, not {named(value)}")
            return None
        if deeper_than(value, self.depth):
            said = f"{path} is nested deeper than {self.depth} levels"
            report.wrong("out_of_range", path, said)
            return None
        return value

    def schema(self) -> dict[str, Any]:
        if self.of is None:
            return {}
        return {"type": "object" if self.of is dict else "array"}

    def matches(self, value: object) -> bool:
        return self.of is None or isinstance(value, self.of)


@dataclass(frozen=True, slots=True)
class AnyOf(Kind):
    """The first kind whose JSON type fits; `wants` names them all."""

    kinds: Sequence[Kind]
    wants: str

    def check(self, value: object, path: str, report: Report) -> Any:
        for kind in self.kinds:
            if kind.matches(value):
                return kind.check(value, path, report)
        self.mistyped(value, path, report)
        return None

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [kind.schema() for kind in self.kinds]}

    def matches(self, value: object) -> bool:
        return any(kind.matches(value) for kind in self.kinds)


def deeper_than(value: object, depth: int) -> bool:
    """Whether lists and objects nest deeper than `depth`; without recursion."""
    level = [value] if isinstance(value, list | dict) else []
    for _ in range(depth):
        if not level:
            return False
        members = (m for v in level for m in (v.values() if isinstance(v, dict) else v))
        level = [m for m in members if isinstance(m, list | dict)]
    return bool(level)
