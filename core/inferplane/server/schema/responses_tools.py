"""Tools of POST /v1/responses: how they are checked, and what they are in a chat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from inferplane.server.limits import Limits
from inferplane.server.schema.fields import Field, State, Structure, Tagged
from inferplane.server.schema.kinds import AnyOf, Flag, Json, Kind, ListOf, OneOf, Text
from inferplane.server.schema.report import Report

__all__ = ["CUSTOM_ARGUMENT", "chat_choice", "chat_tools", "custom_names", "tool_fields"]

CUSTOM_ARGUMENT = "input"
"""A custom tool is offered to the model as a function with this one string."""
_HOSTED = (
    "apply_patch",
    "code_interpreter",
    "computer",
    "computer_use_preview",
    "file_search",
    "image_generation",
    "local_shell",
    "mcp",
    "shell",
    "tool_search",
    "web_search",
    "web_search_2025_08_26",
    "web_search_preview",
    "web_search_preview_2025_03_11",
)
_NAME = r"[A-Za-z0-9_-]{1,64}"


class _ToolKind(Kind):
    """A function or a custom tool; tools that only a hosted service runs are dropped and told."""

    wants = "an object"

    def __init__(self, own: Tagged) -> None:
        self.own = own

    def check(self, value: object, path: str, report: Report) -> dict[str, Any] | None:
        if isinstance(value, dict) and value.get("type") in _HOSTED:
            report.notice("tool_dropped", path, "hosted tools do not run here")
            return None
        return self.own.check(value, path, report)

    def schema(self) -> dict[str, Any]:
        return self.own.schema()

    def matches(self, value: object) -> bool:
        return isinstance(value, dict)


def tool_fields(limits: Limits) -> list[Field]:
    """tools, tool_choice and how many calls there may be."""
    modes = OneOf(("none", "auto", "required"))
    return [
        Field("tools", ListOf(_ToolKind(_tool()), 0, limits.tools), "What the model may call."),
        Field(
            "tool_choice",
            AnyOf((modes, _choice(limits)), "none, auto, required or an object"),
            "Whether and which tool is called.",
        ),
        Field("parallel_tool_calls", Flag(), "Several calls in one answer.", default=True),
        Field("max_tool_calls", Json(), "only hosted tools are counted", State.NOTICED),
    ]


def _tool() -> Tagged:
    kind = Field("type", Text(), "The kind of tool.", required=True)
    name = Field("name", Text(1, 64, _NAME), "The tool's name.", required=True)
    told = Field("description", Text(), "What it does.")
    function = Structure(
        [
            kind,
            name,
            told,
            Field("parameters", Json(dict, depth=32), "JSON schema of its arguments."),
            Field("strict", Flag(), "Arguments must match the schema.", default=False),
        ]
    )
    text = Tagged(
        "type",
        {"text": Structure([kind])},
        {"grammar": "offer a function with strict parameters, or structured_outputs in a chat"},
    )
    custom = Structure([kind, name, told, Field("format", text, "Free text.")])
    return Tagged("type", {"function": function, "custom": custom}, {})


def _choice(limits: Limits) -> Tagged:
    kind = Field("type", Text(), "Which choice.", required=True)
    named = Structure([kind, Field("name", Text(1, 64), "The tool to call.", required=True)])
    several = Structure(
        [
            kind,
            Field("mode", OneOf(("auto", "required")), "Whether one must be.", required=True),
            Field("tools", ListOf(Json(dict), 1, limits.tools), "References.", required=True),
        ]
    )
    return Tagged(
        "type",
        {"function": named, "custom": named, "allowed_tools": several},
        dict.fromkeys(_HOSTED, "hosted tools do not run here; name a function"),
    )


def custom_names(tools: Sequence[Mapping[str, Any] | None]) -> frozenset[str]:
    """Names of the custom tools among checked ones."""
    return frozenset(t["name"] for t in tools if t is not None and t["type"] == "custom")


def chat_tools(tools: Sequence[Mapping[str, Any] | None]) -> list[dict[str, Any]]:
    """Checked tools as a chat has them."""
    return [{"type": "function", "function": _function(t)} for t in tools if t is not None]


def _function(tool: Mapping[str, Any]) -> dict[str, Any]:
    if tool["type"] == "function":
        return {name: value for name, value in tool.items() if name != "type"}
    argument = {"type": "string", "description": "Free text for the tool."}
    parameters = {
        "type": "object",
        "properties": {CUSTOM_ARGUMENT: argument},
        "required": [CUSTOM_ARGUMENT],
    }
    return {
        "name": tool["name"],
        "description": tool.get("description", ""),
        "parameters": parameters,
    }


def chat_choice(choice: str | Mapping[str, Any]) -> str | dict[str, Any]:
    """A checked choice as a chat has it."""
    if isinstance(choice, str):
        return choice
    if choice["type"] == "allowed_tools":
        allowed = {"mode": choice["mode"], "tools": choice["tools"]}
        return {"type": "allowed_tools", "allowed_tools": allowed}
    return {"type": "function", "function": {"name": choice["name"]}}
