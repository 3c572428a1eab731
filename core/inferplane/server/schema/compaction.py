"""The item that stands for what was said before: a summary, sealed so that clients hand it back."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from inferplane.server.schema.kinds import Kind
from inferplane.server.schema.report import Report

__all__ = ["Sealed", "seal", "unseal"]

_MARK = "inferplane-1."
"""Which server wrote it, and in which form."""


def seal(summary: str) -> str:
    """`encrypted_content` of a summary. Nothing is secret in it: it is what the model said of what
    the client sent."""
    return _MARK + base64.urlsafe_b64encode(summary.encode("utf-8", "replace")).decode()


def unseal(content: str) -> str | None:
    """The summary; None for what `seal` did not make."""
    if not content.startswith(_MARK):
        return None
    try:
        sealed = content[len(_MARK) :].encode()
        return base64.b64decode(sealed, altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError):
        return None


@dataclass(frozen=True, slots=True)
class Sealed(Kind):
    """A string that `seal` made."""

    wants = "a string"

    def check(self, value: object, path: str, report: Report) -> str | None:
        if not isinstance(value, str):
            self.mistyped(value, path, report)
            return None
        if unseal(value) is None:
            said = f"{path} was not made by POST /v1/responses/compact of this server"
            report.wrong("unknown_value", path, said, "send the conversation itself")
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^{_MARK.replace('.', '[.]')}[A-Za-z0-9_=-]*$"}

    def matches(self, value: object) -> bool:
        return isinstance(value, str)
