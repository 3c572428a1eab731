"""The fields that constrain an output, and the one constraint that comes of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jiter

from inferplane.grammar.sources import GrammarSource, Kind
from inferplane.server.schema.fields import Field, State, Structure, Tagged
from inferplane.server.schema.kinds import AnyOf, Flag, Json, ListOf, Text
from inferplane.server.schema.report import Report

__all__ = ["check_constraint", "constraint_of", "response_format_field", "structured_fields"]

_ANY_OBJECT: Mapping[str, object] = {"type": "object"}
_KINDS: Mapping[str, Kind] = {
    "json": "json",
    "regex": "regex",
    "choice": "choice",
    "grammar": "lark",
    "json_object": "json",
    "structural_tag": "structural_tag",
}
_OLDER = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
}


def _tag_kind() -> Structure:
    structure = Structure(
        [
            Field("begin", Text(1, 512), "Text that begins the tag.", required=True),
            Field("schema", Json(dict), "JSON schema of what is in it.", required=True),
            Field("end", Text(0, 512), "Text that ends it.", required=True),
        ]
    )
    return Structure(
        [
            Field("type", Text(), "structural_tag."),
            Field("structures", ListOf(structure, 1, 128), "The tags.", required=True),
            Field("triggers", ListOf(Text(1, 256), 1, 128), "What starts them.", required=True),
        ]
    )


def response_format_field() -> Field:
    """How OpenAI asks for structure."""
    schema = Structure(
        [
            Field("name", Text(1, 64, r"[A-Za-z0-9_-]{1,64}"), "A label.", required=True),
            Field("description", Text(), "For people."),
            Field("schema", Json(dict), "The JSON schema."),
            Field("strict", Flag(), "It is always enforced.", default=True),
        ]
    )
    kind = Field("type", Text(), "Which format.", required=True)
    return Field(
        "response_format",
        Tagged(
            "type",
            {
                "text": Structure([kind]),
                "json_object": Structure([kind]),
                "json_schema": Structure(
                    [kind, Field("json_schema", schema, "Name and schema.", required=True)]
                ),
                "structural_tag": _tag_kind(),
            },
            {},
        ),
        "Makes the answer match a JSON schema or tags.",
    )


def structured_fields() -> list[Field]:
    """How other servers ask for it, newer and older."""
    schema = AnyOf((Json(dict), Text(1)), "an object or its JSON text")
    choices = ListOf(Text(1, 4096), 1, 1000)
    structured = Structure(
        [
            Field("json", schema, "A JSON schema."),
            Field("regex", Text(1, 4096), "A regular expression."),
            Field("choice", choices, "One of these texts."),
            Field("grammar", Text(1, 1 << 17), "A grammar, Lark or EBNF."),
            Field("json_object", Flag(), "Any JSON object."),
            Field("structural_tag", AnyOf((_tag_kind(), Text(1)), "an object"), "Tags."),
        ]
    )
    older = "the older name of a member of structured_outputs"
    kinds = {
        "guided_json": schema,
        "guided_regex": Text(1, 4096),
        "guided_choice": choices,
        "guided_grammar": Text(1, 1 << 17),
    }
    return [
        Field("structured_outputs", structured, "Exactly one constraint."),
        *(
            Field(name, kind, older, State.NOTICED, notice="deprecated_field")
            for name, kind in kinds.items()
        ),
    ]


def _given(found: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
    """(path, member of structured_outputs, value) of every constraint."""
    given: list[tuple[str, str, Any]] = []
    form = found.get("response_format") or {"type": "text"}
    kind = form.get("type")
    if kind == "json_object":
        given.append(("response_format", "json_object", True))
    elif kind == "json_schema":
        schema = (form.get("json_schema") or {}).get("schema")
        path = "response_format.json_schema.schema"
        given.append((path, "json", _ANY_OBJECT if schema is None else schema))
    elif kind == "structural_tag":
        given.append(("response_format", "structural_tag", form))
    for name, value in (found.get("structured_outputs") or {}).items():
        if value is not False:
            given.append((f"structured_outputs.{name}", name, value))
    given += [(name, member, found[name]) for name, member in _OLDER.items() if name in found]
    return given


def check_constraint(found: Mapping[str, Any], report: Report) -> None:
    """At most one constraint, and texts of JSON that are JSON."""
    given = _given(found)
    if len(given) > 1:
        names = ", ".join(path for path, _, _ in given)
        report.wrong("conflicting_fields", given[1][0], f"only one of {names} can hold")
    if given and found.get("min_tokens"):
        report.wrong(
            "conflicting_fields", "min_tokens", "a constrained output ends where its grammar does"
        )
    if not given and found.get("structured_outputs") is not None:
        report.wrong("missing_field", "structured_outputs", "structured_outputs has no constraint")
    for path, member, value in given:
        if member in ("json", "structural_tag") and isinstance(value, str):
            parsed = _object_of(value)
            if parsed is None:
                report.wrong("invalid_schema", path, f"{path} is no JSON object")
            elif member == "structural_tag":
                _tag_kind().check(parsed, path, report)


def _object_of(text: str) -> dict[str, Any] | None:
    """The JSON object in a text, read as strictly as bodies are; None = there is none."""
    try:
        found = jiter.from_json(text.encode(), catch_duplicate_keys=True, allow_inf_nan=False)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def constraint_of(found: Mapping[str, Any]) -> GrammarSource | None:
    """The constraint of checked fields."""
    for path, member, value in _given(found):
        if member in ("json", "structural_tag") and isinstance(value, str):
            value = _object_of(value)
        kind = _KINDS[member]
        if member == "json_object":
            value = _ANY_OBJECT
        elif member == "grammar" and "::=" in value:
            kind = "gbnf"
        elif member == "structural_tag":
            value = _tags(value)
        return GrammarSource(kind, value, path)
    return None


def _tags(value: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each tag with the longest trigger that begins it."""
    tags = []
    for tag in value.get("structures") or ():
        fits = [t for t in value.get("triggers") or () if tag["begin"].startswith(t)]
        trigger = max(fits, key=len, default=tag["begin"])
        tags.append({**tag, "trigger": trigger})
    return tags
