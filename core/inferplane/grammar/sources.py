"""What a constraint may be, and the limits it must keep before any grammar library sees it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from inferplane.errors import RequestError

__all__ = ["JSON_OPTIONS", "GrammarSource", "Kind", "check_source", "pointer_of"]

Kind: TypeAlias = Literal["json", "regex", "choice", "lark", "gbnf", "structural_tag"]

JSON_OPTIONS: Mapping[str, str] = {"whitespace_pattern": r"\x20|\x0A[\x20\x09]{0,32}"}
"""Between the parts of JSON: a space, or a line break with its indentation. Models that may write
any whitespace write nothing else for ever."""

MAX_SCHEMA_BYTES = 64 * 1024
MAX_DEPTH = 32
MAX_NODES = 5_000
MAX_ENUM = 1_000
MAX_BOUND = 10_000
MAX_INTEGER = (1 << 63) - 1
MAX_REGEX = 512
MAX_REPEAT = 1_000
MAX_CHOICES = 1_000
MAX_GRAMMAR = 64 * 1024

_BOUNDS = (
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
)
_MEMBERS = ("properties", "patternProperties", "$defs", "definitions")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "not", "contains", "if", "then", "else")
_REPEAT = re.compile(r"\{(\d+)(?:,(\d*))?\}")


class GrammarSource(msgspec.Struct, frozen=True):
    """A constraint as it was asked for; `value` is its schema, pattern, choices or grammar."""

    kind: Kind
    value: Any
    param: str = ""
    """Path of the field it came from."""


def check_source(source: GrammarSource) -> None:
    """Raises RequestError naming field, limit and, for schemas, the place as a JSON pointer."""
    kind, value, param = source.kind, source.value, source.param
    if kind == "json":
        _check_schema(value, param)
    elif kind == "regex":
        _check_pattern(value, param)
    elif kind == "choice":
        if not value or len(value) > MAX_CHOICES:
            raise RequestError(
                "grammar_too_complex", f"{param} needs 1 to {MAX_CHOICES} choices", param
            )
    elif kind == "structural_tag":
        for index, tag in enumerate(value):
            _check_schema(tag["schema"], f"{param}.structures.{index}.schema")
    elif kind in ("lark", "gbnf") and len(value) > MAX_GRAMMAR:
        raise RequestError(
            "grammar_too_complex", f"{param} has more than {MAX_GRAMMAR} characters", param
        )


def _check_pattern(pattern: str, where: str) -> None:
    if len(pattern) > MAX_REGEX:
        raise RequestError(
            "grammar_too_complex",
            f"{where}: the pattern has {len(pattern)} characters, {MAX_REGEX} at most",
            where,
        )
    for found in _REPEAT.finditer(pattern):
        most = max(int(number[:9]) for number in found.groups() if number)
        if most > MAX_REPEAT:
            raise RequestError(
                "grammar_too_complex", f"{where}: repeats {most} times, {MAX_REPEAT} at most", where
            )


def _check_schema(schema: Any, param: str) -> None:
    if not isinstance(schema, dict | bool):
        raise RequestError("invalid_schema", f"{param} is no JSON schema", param)
    if len(msgspec.json.encode(schema)) > MAX_SCHEMA_BYTES:
        raise RequestError(
            "grammar_too_complex", f"{param} is larger than {MAX_SCHEMA_BYTES} bytes", param
        )
    _check_numbers(schema, param)
    for number, (pointer, node, depth) in enumerate(_walk(schema)):
        where = param + pointer
        if number >= MAX_NODES or depth > MAX_DEPTH:
            raise RequestError(
                "grammar_too_complex",
                f"{param} has more than {MAX_NODES} parts or {MAX_DEPTH} levels",
                where,
            )
        _check_node(node, where, schema)


def _check_numbers(schema: Any, param: str) -> None:
    """Whole numbers anywhere, also in `const` and `enum`, must fit 64 bits."""
    left: list[tuple[str, Any]] = [(param, schema)]
    while left:
        where, value = left.pop()
        if isinstance(value, dict):
            left += [(f"{where}/{_escaped(key)}", member) for key, member in value.items()]
        elif isinstance(value, list):
            left += [(f"{where}/{index}", member) for index, member in enumerate(value)]
        elif isinstance(value, int) and not -MAX_INTEGER <= value <= MAX_INTEGER:
            raise RequestError(
                "grammar_too_complex",
                f"{where} is a whole number beyond 64 bits: give one within "
                f"-{MAX_INTEGER} and {MAX_INTEGER}",
                where,
            )


def _walk(schema: Any) -> Iterator[tuple[str, Mapping[str, Any], int]]:
    """(JSON pointer, subschema, depth) of every subschema; without recursion."""
    left: list[tuple[str, Any, int]] = [("", schema, 0)]
    while left:
        pointer, node, depth = left.pop()
        if not isinstance(node, dict):
            continue
        yield pointer, node, depth
        if depth > MAX_DEPTH:
            continue
        for key, member in node.items():
            path = f"{pointer}/{_escaped(key)}"
            if key in _MEMBERS and isinstance(member, dict):
                left += [(f"{path}/{_escaped(k)}", v, depth + 1) for k, v in member.items()]
            elif key in _LISTS and isinstance(member, list):
                left += [(f"{path}/{i}", v, depth + 1) for i, v in enumerate(member)]
            elif key in _SINGLE:
                left.append((path, member, depth + 1))


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _check_node(node: Mapping[str, Any], where: str, root: Any) -> None:
    for key in _BOUNDS:
        value = node.get(key)
        if value is not None and (type(value) is not int or not 0 <= value <= MAX_BOUND):
            at = f"{where}/{key}"
            raise RequestError(
                "grammar_too_complex", f"{at} must be a whole number up to {MAX_BOUND}", at
            )
    enum = node.get("enum")
    if isinstance(enum, list) and len(enum) > MAX_ENUM:
        at = f"{where}/enum"
        raise RequestError("grammar_too_complex", f"{at} has more than {MAX_ENUM} members", at)
    pattern = node.get("pattern")
    if isinstance(pattern, str):
        _check_pattern(pattern, f"{where}/pattern")
    if "x-guidance" in node:  # would change how the schema itself is enforced
        at = f"{where}/x-guidance"
        raise RequestError("unsupported_schema_keyword", f"{at} is not for requests", at)
    if "$ref" in node:
        _check_reference(node, where, root)


def _check_reference(node: Mapping[str, Any], where: str, root: Any) -> None:
    """A reference must lead, through references alone, to a schema that says something."""
    at, seen = f"{where}/$ref", set[str]()
    current: Any = node
    while isinstance(current, dict) and isinstance(current.get("$ref"), str):
        reference = current["$ref"]
        if reference in seen:
            raise RequestError("invalid_schema", f"{at} refers to itself", at)
        seen.add(reference)
        if not reference.startswith("#"):
            raise RequestError("unsupported_schema_keyword", f"{at} leaves the schema", at)
        if reference == "#" and current is node and node is root:
            raise RequestError("invalid_schema", f"{at} refers to itself", at)
        current = _resolved(root, reference)
        if current is None:
            raise RequestError("invalid_schema", f"{at} points at nothing", at)


def _resolved(root: Any, reference: str) -> Any:
    current = root
    for part in reference.removeprefix("#").split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(current, list) and key.isdecimal() and int(key) < len(current):
            current = current[int(key)]
        elif isinstance(current, dict) and key in current:
            current = current[key]
        else:
            return None
    return current


def pointer_of(schema: Any, key: str) -> str:
    """Where a keyword stands first, as a JSON pointer; "" if nowhere."""
    return next((f"{at}/{_escaped(key)}" for at, node, _ in _walk(schema) if key in node), "")
