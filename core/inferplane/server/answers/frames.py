"""What answers have in common: their head, and frames of server-sent events."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import msgspec

from inferplane.request import FinishReason
from inferplane.server.errors import ApiError, error_object

__all__ = ["DONE", "FINISH_NAMES", "Framing", "Head", "encode", "event", "frame", "json_text"]

encode = msgspec.json.Encoder().encode
DONE = b"data: [DONE]\n\n"
FINISH_NAMES = {FinishReason.STOP: "stop", FinishReason.LENGTH: "length"}


@dataclass(frozen=True, slots=True)
class Head:
    """What every chunk of an answer repeats."""

    id: str
    kind: str
    """Value of `object`."""
    model: str
    fingerprint: str
    created: int = field(default_factory=lambda: int(time.time()))

    def object(self) -> dict[str, object]:
        """The head as an object, to be filled."""
        return {
            "id": self.id,
            "object": self.kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }

    def opening(self) -> bytes:
        """`data: {` and the head's members, up to where the choices go."""
        return b"data: " + encode(self.object())[:-1] + b',"choices":['


def frame(value: object) -> bytes:
    """One event with a JSON object."""
    return b"data: " + encode(value) + b"\n\n"


def event(name: str, value: object) -> bytes:
    """One event with its name, for dialects that name them."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), encode(value))


class Framing:
    """How a dialect ends a stream, tells a failure in it, and fills silence; here, chunks do."""

    media_type = b"text/event-stream; charset=utf-8"
    terminal = DONE
    """Follows the last frame, whatever happened before."""
    ping = b": ping\n\n"

    def failure(self, error: ApiError, request_id: str) -> bytes:
        """The last frames of a stream that fails."""
        return frame(error_object(error, "openai", request_id))


def json_text(text: str) -> bytes:
    """A JSON string."""
    return encode(text)
