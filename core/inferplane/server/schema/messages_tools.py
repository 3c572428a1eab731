"""Tools of /v1/messages, and the choice among them."""

from __future__ import annotations

import re
from typing import Any

from inferplane.server.schema.fields import Field, State, Structure, Tagged
from inferplane.server.schema.kinds import Flag, Json, Kind, Text
from inferplane.server.schema.report import Report

__all__ = ["ToolKind", "cache_control_field", "choice_kind"]

_NAME = r"[A-Za-z0-9_-]{1,64}"
_HOSTED = re.compile(r"[a-z_]{1,64}_\d{8}|mcp_toolset")
"""Types of the tools that the hosted API runs or defines itself."""


def cache_control_field() -> Field:
    """Where clients would have a prefix cached; here, all are."""
    return Field("cache_control", Json(dict), "Accepted; prefix caching is automatic.")


class ToolKind(Kind):
    """A tool with a schema. A tool of the hosted API is noticed and has no `input_schema`."""

    wants = "an object"

    def __init__(self) -> None:
        self.shape = Structure(
            [
                Field("type", Text(1, 64), "custom, the default."),
                Field("name", Text(1, 64, _NAME), "The tool's name.", required=True),
                Field("description", Text(), "What it does."),
                Field(
                    "input_schema",
                    Json(dict, depth=32),
                    "JSON schema of its arguments.",
                    required=True,
                ),
                Field("strict", Flag(), "Arguments must match the schema.", default=False),
                *_noticed_fields(),
                cache_control_field(),
            ]
        )

    def check(self, value: object, path: str, report: Report) -> dict[str, Any] | None:
        if not isinstance(value, dict):
            self.mistyped(value, path, report)
            return None
        kind = value.get("type")
        if kind is None or kind == "custom":
            return self.shape.check(value, path, report)
        where = f"{path}.type"
        if not isinstance(kind, str):
            report.wrong("invalid_type", where, f"{where} must be a string")
        elif not _HOSTED.fullmatch(kind):
            report.wrong("unknown_value", where, f"{where} is not custom")
        else:
            report.notice("tool_dropped", where, "hosted tools do not run here")
            return {"name": str(value.get("name"))}
        return None

    def schema(self) -> dict[str, Any]:
        return self.shape.schema()

    def matches(self, value: object) -> bool:
        return isinstance(value, dict)


def _noticed_fields() -> list[Field]:
    nothing, noticed = "nothing depends on it", State.NOTICED
    whole = "calls are sent when they are complete"
    return [
        Field("input_examples", Json(list), "examples are not shown", noticed, unless=([],)),
        Field("defer_loading", Flag(), "all tools are told", noticed, unless=(False,)),
        Field("allowed_callers", Json(list), nothing, noticed, unless=(["direct"],)),
        Field("eager_input_streaming", Flag(), whole, noticed, unless=(False,)),
    ]


def choice_kind() -> Tagged:
    """auto, any, tool or none."""
    kind = Field("type", Text(), "Which choice.", required=True)
    single = Field("disable_parallel_tool_use", Flag(), "At most one call.", default=False)
    name = Field("name", Text(1, 64), "The tool to call.", required=True)
    free = Structure([kind, single])
    return Tagged(
        "type",
        {
            "auto": free,
            "any": free,
            "tool": Structure([kind, name, single]),
            "none": Structure([kind]),
        },
        {},
    )
