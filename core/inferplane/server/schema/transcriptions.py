"""The fields of the routes that read recordings, which come as forms: each value is a string."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.datastructures import FormData, UploadFile

from inferplane.server.schema.fields import Field, State, Structure
from inferplane.server.schema.kinds import Flag, Json, ListOf, Number, OneOf, Text, Whole

__all__ = ["FORMATS", "TIMED", "form_values", "transcription_structure", "translation_structure"]

FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
TIMED = ("srt", "verbose_json", "vtt")
"""What needs timestamps."""
_COUNT = (1 << 31) - 1
_GRANULARITIES = "timestamp_granularities"


def transcription_structure() -> Structure:
    """POST /v1/audio/transcriptions."""
    return Structure(
        [
            *_common(),
            Field("language", Text(2, 16), "Its code, as en; default: by ear."),
            Field("stream", Flag(), "Send events, with json or text.", default=False),
            Field(
                _GRANULARITIES,
                ListOf(OneOf(("segment", "word")), 0, 2),
                "segment, with verbose_json; words have no timestamps here.",
            ),
            Field("chunking_strategy", Json(object), "windows are the model's", State.NOTICED),
            Field(
                "include",
                ListOf(Text(), 0, 8),
                "log-probabilities of tokens are not sent",
                State.REFUSED,
                unless=([],),
            ),
        ]
    )


def translation_structure() -> Structure:
    """POST /v1/audio/translations."""
    return Structure(_common())


def form_values(form: FormData) -> dict[str, Any]:
    """The fields of a form but its file, as JSON would have them; what is no number stays text."""
    found: dict[str, Any] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            continue
        if name.endswith("[]"):
            found.setdefault(name[:-2], []).append(value)
        elif name in (_GRANULARITIES, "include"):
            found.setdefault(name, []).append(value)
        else:
            found[name] = _plain(name, value)
    return found


def _plain(name: str, value: str) -> object:
    if name == "stream":
        return _FLAGS.get(value.lower(), value)
    if name not in ("temperature", "priority"):
        return value
    try:
        return int(value) if name == "priority" else float(value)
    except ValueError:
        return value


_FLAGS: Mapping[str, bool] = {"true": True, "false": False, "1": True, "0": False}


def _common() -> list[Field]:
    return [
        Field("model", Text(1, 512), "A served name; may be left out when one is served."),
        Field("prompt", Text(0, 4096), "A text that comes before what is said, to set its style."),
        Field("response_format", OneOf(FORMATS), "What the answer is.", default="json"),
        Field("temperature", Number(0, 2), "0 = the most likely tokens.", default=0),
        Field("priority", Whole(-_COUNT, _COUNT), "Smaller runs first, under that policy."),
    ]
