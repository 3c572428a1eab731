"""From a picture part of a message to its bytes: base64 and data: URLs, fetched ones if allowed."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inferplane.server.errors import ApiError
from inferplane.server.limits import Limits
from inferplane.server.media.fetching import Fetcher

__all__ = ["MEDIA_TYPES", "SentPicture", "picture_bytes", "sent_pictures"]

MEDIA_TYPES = ("image/png", "image/jpeg", "image/webp", "image/gif")
_SPOKEN = frozenset((*MEDIA_TYPES, "image/jpg"))
_TAKEN = "send PNG, JPEG, WebP or GIF as data:image/png;base64,..."
_SHOWN_CHARACTERS = 40


@dataclass(frozen=True, slots=True)
class SentPicture:
    """One picture of a request, not looked at yet."""

    path: str
    """Of its part in the body, for errors."""
    kind_path: str
    """Of what a model that takes no pictures refuses."""
    url: str = ""
    base64: str = ""
    """Instead of `url`."""


def sent_pictures(messages: Sequence[Mapping[str, Any]]) -> list[SentPicture]:
    """The pictures of a chat in the order of its text. Raises ApiError where one may not stand."""
    found: list[SentPicture] = []
    for number, message in enumerate(messages):
        content = message.get("content")
        for place, part in enumerate(content if isinstance(content, list) else ()):
            if part.get("type") != "image_url":
                continue
            path = part.get("path") or f"messages.{number}.content.{place}"
            kind_path = part.get("kind_path") or f"{path}.type"
            if message["role"] != "user":
                raise ApiError.of(
                    "unsupported_feature",
                    f"{kind_path}: a picture has no place in a {message['role']} message",
                    kind_path,
                    "send it in a user message",
                )
            held = part["image_url"]
            url, data = held.get("url", ""), held.get("base64", "")
            found.append(SentPicture(path, kind_path, url, data))
    return found


async def picture_bytes(sent: SentPicture, limits: Limits, fetcher: Fetcher) -> bytes:
    """The bytes of a picture, still as the client made them.

    Raises ApiError `media_invalid`, `media_fetch_disabled` or what a fetch raises.
    """
    if not sent.url:
        return _decoded(sent.base64, sent, limits)
    scheme, _, rest = sent.url.partition(":")
    if scheme.lower() in ("http", "https"):
        return await fetcher.fetch(sent.url, sent.path)
    head, comma, data = rest.partition(",")
    kind, _, coding = head.lower().partition(";")
    if scheme.lower() != "data" or not comma or coding != "base64" or kind not in _SPOKEN:
        shown = sent.url[:_SHOWN_CHARACTERS].encode("ascii", "replace").decode()
        raise ApiError.of(
            "media_invalid", f"{sent.path}: {shown!r} is no picture", sent.path, _TAKEN
        )
    return _decoded(data, sent, limits)


def _decoded(text: str, sent: SentPicture, limits: Limits) -> bytes:
    most = limits.media_bytes
    if len(text) > -(-most // 3) * 4:
        raise ApiError.of(
            "media_invalid", f"{sent.path}: a picture has at most {most} bytes", sent.path
        )
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise ApiError.of(
            "media_invalid", f"{sent.path}: its base64 is not valid", sent.path, _TAKEN
        ) from None
    if not data or len(data) > most:
        raise ApiError.of(
            "media_invalid", f"{sent.path}: a picture has 1 to {most} bytes", sent.path
        )
    return data
