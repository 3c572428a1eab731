"""The fields that offer tools and choose among them, and what they mean together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from inferplane.server.limits import Limits
from inferplane.server.schema.fields import Field, State, Structure, Tagged
from inferplane.server.schema.kinds import AnyOf, Flag, Json, ListOf, OneOf, Text
from inferplane.server.schema.report import Report
from inferplane.server.tools.values import Tool, Tools

__all__ = ["Mode", "ToolUse", "check_tools", "tool_fields", "tool_use"]

Mode: TypeAlias = Literal["none", "auto", "required"]
_NAME = r"[A-Za-z0-9_-]{1,64}"


@dataclass(frozen=True, slots=True)
class ToolUse:
    """What a request wants done with tools."""

    mode: Mode = "none"
    """none: nothing is offered and nothing is taken for a call."""
    offered: Sequence[Mapping[str, Any]] = ()
    """As templates get them."""
    tools: Tools = field(default_factory=dict)
    """The same by name."""
    allowed: frozenset[str] = frozenset()
    """Names that may be called; with mode `required`, one of them must be."""
    parallel: bool = True


def tool_fields(limits: Limits) -> list[Field]:
    """tools, tool_choice, parallel_tool_calls, and the names they had before."""
    function, named = _function(), _named()
    modes = OneOf(("none", "auto", "required"))
    older = "the older name of tools and tool_choice"
    return [
        Field("tools", ListOf(_tool(function), 1, limits.tools), "Functions the model may call."),
        Field(
            "tool_choice",
            AnyOf((modes, _choice(limits, named)), "none, auto, required or an object"),
            "Whether and which tool is called.",
        ),
        Field("parallel_tool_calls", Flag(), "Several calls in one answer.", default=True),
        Field(
            "functions",
            ListOf(function, 1, limits.tools),
            older,
            State.NOTICED,
            notice="deprecated_field",
        ),
        Field(
            "function_call",
            AnyOf((OneOf(("none", "auto")), named), "none, auto or an object"),
            older,
            State.NOTICED,
            notice="deprecated_field",
        ),
    ]


def _function() -> Structure:
    return Structure(
        [
            Field("name", Text(1, 64, _NAME), "The function's name.", required=True),
            Field("description", Text(), "What it does."),
            Field("parameters", Json(dict, depth=32), "JSON schema of its arguments."),
            Field("strict", Flag(), "Arguments must match the schema.", default=False),
        ]
    )


def _tool(function: Structure) -> Tagged:
    shape = Structure(
        [
            Field("type", OneOf(("function",)), "The kind of tool.", required=True),
            Field("function", function, "The function.", required=True),
        ]
    )
    refused = {"custom": "offer a function with one string argument"}
    return Tagged("type", {"function": shape}, refused)


def _named() -> Structure:
    return Structure([Field("name", Text(1, 64), "Which one.", required=True)])


def _choice(limits: Limits, named: Structure) -> Tagged:
    one = Structure(
        [
            Field("type", Text(), "Which choice.", required=True),
            Field("function", named, "The function to call.", required=True),
        ]
    )
    several = Structure(
        [
            Field("type", Text(), "Which choice.", required=True),
            Field("allowed_tools", _allowed(limits), "Which may be called.", required=True),
        ]
    )
    return Tagged(
        "type", {"function": one, "allowed_tools": several}, {"custom": "name a function"}
    )


def _allowed(limits: Limits) -> Structure:
    return Structure(
        [
            Field("mode", OneOf(("auto", "required")), "Whether one must be.", required=True),
            Field("tools", ListOf(Json(dict), 1, limits.tools), "References.", required=True),
        ]
    )


def _functions(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    given = [tool for tool in found.get("tools") or () if tool is not None]
    older = [{"type": "function", "function": f} for f in found.get("functions") or () if f]
    return given or older


def check_tools(found: Mapping[str, Any], report: Report) -> None:
    """Rules between these fields."""
    tools = _functions(found)
    names = [tool["function"]["name"] for tool in tools if "name" in tool.get("function", {})]
    if len(set(names)) < len(names):
        report.wrong("conflicting_fields", "tools", "two tools have the same name")
    choice = found.get("tool_choice", found.get("function_call"))
    if choice is None or report.problems:
        return
    if not tools and choice not in ("none", "auto"):
        report.wrong("conflicting_fields", "tool_choice", "tool_choice needs tools")
    for name in _chosen(choice):
        if name not in names and tools:
            known = ", ".join(names)
            report.wrong(
                "unknown_value",
                "tool_choice",
                f"tool_choice names no offered tool (offered: {known})",
            )


def _chosen(choice: object) -> list[str]:
    """Names a choice is limited to."""
    if not isinstance(choice, dict):
        return []
    if "name" in choice:
        return [choice["name"]]
    if choice.get("type") == "function":
        return [choice["function"]["name"]]
    references = choice["allowed_tools"]["tools"]
    return [str((one.get("function") or one).get("name")) for one in references]


def tool_use(found: Mapping[str, Any]) -> ToolUse:
    """What the checked fields mean."""
    offered = _functions(found)
    choice = found.get("tool_choice", found.get("function_call", "auto"))
    names = _chosen(choice)
    mode: Mode = "required" if names else choice
    if names and isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        mode = choice["allowed_tools"]["mode"]
    if not offered or mode == "none":
        return ToolUse()
    tools = {
        f["name"]: Tool(f["name"], f.get("parameters") or {})
        for f in (tool["function"] for tool in offered)
    }
    allowed = frozenset(names or tools)
    parallel = found.get("parallel_tool_calls", True) and not (
        len(allowed) == 1 and names and mode == "required"
    )
    return ToolUse(mode, offered, tools, allowed, parallel)
