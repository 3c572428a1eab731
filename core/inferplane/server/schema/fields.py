"""Fields of request bodies: each is honoured, accepted with a notice, or refused. No fourth state.

The tables made of these drive validation and the OpenAPI document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from inferplane.server.schema.kinds import Kind, deeper_than
from inferplane.server.schema.report import Report

__all__ = ["Field", "State", "Structure", "Tagged"]


class State(StrEnum):
    """What happens with a field that is given."""

    HONOURED = "H"
    NOTICED = "W"
    """Accepted; has no or a changed effect, which is reported."""
    REFUSED = "R"


@dataclass(frozen=True, slots=True)
class Field:
    """One documented field."""

    name: str
    kind: Kind
    doc: str
    state: State = State.HONOURED
    required: bool = False
    default: Any = None
    """For the documents; what an absent field means is decided where it is used."""
    unless: tuple[object, ...] = ()
    """Values for which a field that is not honoured is accepted in silence: they ask for nothing.

    """
    hint: str = ""
    """What to do instead of a refused field."""
    code: str = "unsupported_feature"
    """Wire code of a refusal."""
    notice: str = "ignored_field"
    """Code of the notice, for a field that is accepted with one."""

    def check(self, value: object, path: str, report: Report) -> Any:
        """The value to use, or None."""
        if self.state is State.HONOURED:
            return self.kind.check(value, path, report)
        if self._asks_for_nothing(value):
            return None
        if self.state is State.REFUSED:
            report.wrong(self.code, path, f"{path} is not supported here: {self.doc}", self.hint)
            return None
        before = len(report.problems)
        checked = self.kind.check(value, path, report)
        if len(report.problems) == before:
            report.notice(self.notice, path, self.doc)
        return checked

    def _asks_for_nothing(self, value: object) -> bool:
        return any(type(value) is type(one) and value == one for one in self.unless)

    def schema(self) -> dict[str, Any]:
        """JSON Schema of the field."""
        made = {**self.kind.schema(), "description": self.doc, "x-inferplane-state": self.state}
        if self.default is not None:
            made["default"] = self.default
        return made


class Structure(Kind):
    """An object with a table of fields. Unknown ones are reported, null equals left out."""

    wants = "an object"

    def __init__(self, fields: Sequence[Field]) -> None:
        self.fields: Mapping[str, Field] = {field.name: field for field in fields}
        if len(self.fields) != len(fields):
            raise ValueError("a field stands in the table twice")
        self.required = tuple(field.name for field in fields if field.required)

    def check(self, value: object, path: str, report: Report) -> dict[str, Any] | None:
        if not isinstance(value, dict):
            self.mistyped(value, path or "the body", report)
            return None
        prefix = f"{path}." if path else ""
        found: dict[str, Any] = {}
        for name, member in value.items():
            field = self.fields.get(name)
            if field is None:
                self._unknown(name, member, prefix, report)
            elif member is not None:
                checked = field.check(member, prefix + name, report)
                if checked is not None:
                    found[name] = checked
        for name in self.required:
            if value.get(name) is None:
                report.wrong("missing_field", prefix + name, f"{prefix}{name} is missing")
        return found

    def _unknown(self, name: str, member: object, prefix: str, report: Report) -> None:
        where = prefix + name[:64]
        if deeper_than(member, 64):
            report.wrong("out_of_range", where, f"{where} is nested deeper than 64 levels")
            return
        report.unknown(where, name, list(self.fields))

    def schema(self) -> dict[str, Any]:
        made: dict[str, Any] = {
            "type": "object",
            "properties": {name: field.schema() for name, field in self.fields.items()},
        }
        if self.required:
            made["required"] = list(self.required)
        return made

    def matches(self, value: object) -> bool:
        return isinstance(value, dict)


class Tagged(Kind):
    """An object whose `tag` member says which structure it is."""

    wants = "an object"

    def __init__(
        self, tag: str, kinds: Mapping[str, Structure], refused: Mapping[str, str]
    ) -> None:
        """`refused` holds known tags that are not supported -> what to do instead."""
        self.tag = tag
        self.kinds = kinds
        self.refused = refused

    def check(self, value: object, path: str, report: Report) -> dict[str, Any] | None:
        if not isinstance(value, dict):
            self.mistyped(value, path, report)
            return None
        where = f"{path}.{self.tag}"
        tag = value.get(self.tag)
        if tag is None:
            report.wrong("missing_field", where, f"{where} is missing")
        elif not isinstance(tag, str):
            report.wrong("invalid_type", where, f"{where} must be a string")
        elif tag in self.refused:
            said = f"{where} {tag!r} is not supported by this model or server"
            report.wrong("unsupported_feature", where, said, self.refused[tag])
        elif tag not in self.kinds:
            known = ", ".join(self.kinds)
            report.wrong("unknown_value", where, f"{where} is not one of {known}")
        else:
            return self.kinds[tag].check(value, path, report)
        return None

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [kind.schema() for kind in self.kinds.values()]}

    def matches(self, value: object) -> bool:
        return isinstance(value, dict)
