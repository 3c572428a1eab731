"""What answers have in common: their head, and frames of server-sent events."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import msgspec

from inferplane.request import FinishReason

__all__ = ["DONE", "FINISH_NAMES", "Head", "encode", "frame", "json_text"]

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


def json_text(text: str) -> bytes:
    """A JSON string."""
    return encode(text)
