"""Values in calls: strict JSON, literals of other languages, and types by the tool's schema."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jiter
import msgspec

from inferplane.server.tools.source import Malformed

__all__ = ["Tool", "Tools", "by_schema", "json_object", "json_value", "written"]

_LITERALS: Mapping[str, object] = {
    "true": True,
    "false": False,
    "null": None,
    "True": True,
    "False": False,
    "None": None,
}
_DEPTH = 16


@dataclass(frozen=True, slots=True)
class Tool:
    """One offered function."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Its JSON schema."""

    def schema_of(self, parameter: str) -> Mapping[str, Any] | None:
        """Schema of one parameter, if there is one."""
        properties = self.parameters.get("properties")
        found = properties.get(parameter) if isinstance(properties, Mapping) else None
        return found if isinstance(found, Mapping) else None


Tools = Mapping[str, Tool]
"""Name -> tool."""


def json_value(text: str) -> object:
    """The value of strict JSON text. Raises Malformed."""
    try:
        value = jiter.from_json(text.encode(), catch_duplicate_keys=True, allow_inf_nan=False)
    except (ValueError, UnicodeEncodeError):
        raise Malformed from None
    if not _finite(value, _DEPTH * 4):
        raise Malformed
    return value


def _finite(value: object, depth: int) -> bool:
    """Whether no number in it is too large for JSON's readers, and it is not absurdly deep."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return depth > 0 and all(_finite(member, depth - 1) for member in value.values())
    if isinstance(value, list):
        return depth > 0 and all(_finite(member, depth - 1) for member in value)
    return True


def json_object(text: str) -> dict[str, object]:
    """Like `json_value`, for an object."""
    value = json_value(text)
    if not isinstance(value, dict):
        raise Malformed
    return value


def written(value: object) -> str:
    """JSON text of a value."""
    return msgspec.json.encode(value).decode()


def by_schema(text: str, schema: Mapping[str, Any] | None, *, default_json: bool = False) -> object:
    """A value written without quotes, typed as the schema says.

    Text is text when the schema wants a string or nothing fits; `default_json` tries JSON first
    where there is no schema.
    """
    types = _types(schema, _DEPTH) if schema is not None else set()
    if not types:
        return _unquoted(text, text) if default_json else text
    if types == {"string"}:
        return text
    value = _unquoted(text, text)
    if isinstance(value, str):
        return text if value is text or "string" not in types else value
    kind = _type_of(value)
    if kind in types or (kind == "integer" and "number" in types):
        return value
    if kind == "number" and "integer" in types and isinstance(value, float) and value.is_integer():
        return int(value)
    return text if "string" in types else value


def _unquoted(text: str, otherwise: object) -> object:
    bare = text.strip()
    if bare in _LITERALS:
        return _LITERALS[bare]
    try:
        return json_value(bare)
    except Malformed:
        return otherwise


def _type_of(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    names = {int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return names[type(value)]


def _types(schema: Mapping[str, Any], depth: int) -> set[str]:
    """Every type that the schema mentions."""
    if depth == 0:
        return set()
    given = schema.get("type")
    found = {given} if isinstance(given, str) else set(given) if isinstance(given, list) else set()
    for key in ("anyOf", "oneOf", "allOf"):
        members = schema.get(key)
        if isinstance(members, Sequence) and not isinstance(members, str):
            for member in members:
                if isinstance(member, Mapping):
                    found |= _types(member, depth - 1)
    if not found and isinstance(schema.get("enum"), list):
        found = {_type_of(value) for value in schema["enum"]}
    return {one for one in found if isinstance(one, str)}
