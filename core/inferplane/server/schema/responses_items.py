"""Input items of POST /v1/responses, as they are checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inferplane.server.limits import Limits
from inferplane.server.schema.compaction import Sealed
from inferplane.server.schema.fields import Field, State, Structure, Tagged
from inferplane.server.schema.kinds import AnyOf, Json, ListOf, OneOf, Text
from inferplane.server.schema.pictures import input_picture
from inferplane.server.schema.report import Report

__all__ = ["input_kind"]

_MEDIA = "send text or input_image; other media are not taken"
_HOSTED = (
    "only messages, function and custom calls, their outputs, reasoning and compactions have a "
    "meaning"
)
_HOSTED_ITEMS = (
    "apply_patch_call",
    "apply_patch_call_output",
    "code_interpreter_call",
    "computer_call",
    "computer_call_output",
    "file_search_call",
    "image_generation_call",
    "local_shell_call",
    "local_shell_call_output",
    "mcp_approval_request",
    "mcp_approval_response",
    "mcp_call",
    "mcp_list_tools",
    "shell_call",
    "shell_call_output",
    "tool_search_call",
    "tool_search_output",
    "web_search_call",
)
_MEDIA_PARTS = ("input_image", "input_file", "input_audio", "input_video")
_CALL_ID = Text(1, 256)


class _Item(Tagged):
    """An item; one without a type is a message when it has a role, else a reference by its id."""

    def check(self, value: object, path: str, report: Report) -> dict[str, Any] | None:
        if not isinstance(value, dict) or value.get("type") is not None:
            return super().check(value, path, report)
        kind = "item_reference" if "id" in value and "role" not in value else "message"
        found = self.kinds[kind].check(value, path, report)
        return None if found is None else {**found, "type": kind}


def input_kind(limits: Limits) -> AnyOf:
    """A text, or a list of items."""
    items = ListOf(_item(), 1, limits.messages)
    return AnyOf((Text(1), items), "a string or a list of items")


def _item() -> _Item:
    call = [_field("call_id", _CALL_ID), _field("name", Text(1, 256))]
    output = AnyOf((Text(), ListOf(_part(), 0)), "a string or a list of parts")
    result = [*_common("Which result."), _field("call_id", _CALL_ID), _field("output", output)]
    return _Item(
        "type",
        {
            "message": _message(),
            "function_call": Structure(
                [*_common("Which call."), *call, _field("arguments", Text())]
            ),
            "function_call_output": Structure(result),
            "custom_tool_call": Structure(
                [*_common("Which call."), *call, _field("input", Text())]
            ),
            "custom_tool_call_output": Structure(result),
            "reasoning": _reasoning(),
            "compaction": Structure(
                [
                    Field("type", Text(), "compaction."),
                    Field("id", Text(1, 256), "Which summary."),
                    _field("encrypted_content", Sealed()),
                ]
            ),
            "item_reference": Structure(
                [Field("type", Text(), "item_reference."), _field("id", Text(1, 256))]
            ),
        },
        dict.fromkeys(_HOSTED_ITEMS, _HOSTED),
    )


def _field(name: str, kind: Any) -> Field:
    return Field(name, kind, f"The {name.replace('_', ' ')}.", required=True)


def _common(doc: str) -> list[Field]:
    return [
        Field("type", Text(), "The kind of item."),
        Field("id", Text(1, 256), doc),
        Field("status", OneOf(("in_progress", "completed", "incomplete")), "As answers had it."),
    ]


def _message() -> Structure:
    content = AnyOf(
        (Text(), ListOf(_part({"input_image": input_picture()}), 1)), "a string or a list of parts"
    )
    return Structure(
        [
            *_common("Which message."),
            Field(
                "role",
                OneOf(("user", "assistant", "system", "developer")),
                "Who speaks.",
                required=True,
            ),
            Field("content", content, "What is said.", required=True),
            Field("phase", OneOf(("commentary", "final_answer")), "As answers had it."),
        ]
    )


def _part(pictures: Mapping[str, Structure] | None = None) -> Tagged:
    """`pictures` are the kinds of part beside text, by their names."""
    beside = pictures or {}
    kind = Field("type", Text(1, 64), "Which part it is.", required=True)
    text = Field("text", Text(), "The text.", required=True)
    given = Structure([kind, text])
    made = Structure(
        [
            kind,
            text,
            Field("annotations", Json(list), "As answers had them; they have no effect."),
            Field("logprobs", Json(list), "As answers had them; they have no effect."),
        ]
    )
    refusal = Structure([kind, Field("refusal", Text(), "What was refused.", required=True)])
    return Tagged(
        "type",
        {"input_text": given, "output_text": made, "text": given, "refusal": refusal, **beside},
        {name: _MEDIA for name in _MEDIA_PARTS if name not in beside},
    )


def _reasoning() -> Structure:
    kind = Field("type", Text(1, 64), "Which part it is.", required=True)
    part = Structure([kind, Field("text", Text(), "The text.", required=True)])
    sealed = "reasoning is never encrypted here, so nothing can be read from it"
    return Structure(
        [
            *_common("Which thoughts."),
            Field("summary", ListOf(part, 0), "Used when there is no content."),
            Field("content", ListOf(part, 0), "What the model thought."),
            Field("encrypted_content", Text(), sealed, State.NOTICED, unless=("",)),
        ]
    )
