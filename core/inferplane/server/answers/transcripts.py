"""What was said, in each of the formats of OpenAI's audio routes."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

from inferplane.server.answers.frames import encode
from inferplane.server.audio.transcript import Segment, Transcript

__all__ = ["MEDIA_TYPES", "told", "usage_of"]

MEDIA_TYPES = {
    "json": "application/json",
    "verbose_json": "application/json",
    "text": "text/plain; charset=utf-8",
    "srt": "application/x-subrip; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
}


def told(made: Transcript, format: str) -> bytes:
    """The body of a whole answer."""
    text = made.text.strip()
    if format == "json":
        return encode({"text": text, "usage": usage_of(made)})
    if format == "verbose_json":
        return encode(_verbose(made, text))
    if format == "text":
        return (text + "\n").encode()
    if format == "srt":
        return _subtitles(made.segments, ",", numbered=True).encode()
    return ("WEBVTT\n\n" + _subtitles(made.segments, ".", numbered=False)).encode()


def usage_of(made: Transcript) -> dict[str, Any]:
    """Recordings are counted by their length."""
    return {"type": "duration", "seconds": math.ceil(made.seconds)}


def _verbose(made: Transcript, text: str) -> dict[str, Any]:
    return {
        "task": made.wish.task,
        "language": made.language,
        "duration": made.seconds,
        "text": text,
        "segments": [
            {
                "id": number,
                "seek": round(one.seek * 100),
                "start": round(one.start, 2),
                "end": round(one.end, 2),
                "text": one.text,
                "tokens": list(one.ids),
                "temperature": made.draws.temperature,
                "avg_logprob": one.logprob,
                "compression_ratio": _ratio(one.text),
            }
            for number, one in enumerate(made.segments)
        ],
        "usage": usage_of(made),
    }


def _ratio(text: str) -> float:
    """How much a text repeats itself."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))


def _subtitles(segments: Sequence[Segment], point: str, *, numbered: bool) -> str:
    made = []
    for number, one in enumerate(segments, 1):
        times = f"{_clock(one.start, point)} --> {_clock(one.end, point)}"
        text = one.text.strip().replace("-->", "->")
        made.append(f"{number}\n{times}\n{text}\n\n" if numbered else f"{times}\n{text}\n\n")
    return "".join(made)


def _clock(seconds: float, point: str) -> str:
    rest = round(seconds * 1000)
    hours, rest = divmod(rest, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}{point}{rest % 1000:03}"
