"""Pictures in request bodies, and the one form in which they stand in a chat.

That form is a part `{type: image_url, image_url: {url} or {base64}}`; `path` tells where the client
wrote it and `kind_path` which field a model without eyes refuses, where those are not the chat's.
"""

from __future__ import annotations

from typing import Any

from inferplane.server.limits import Limits
from inferplane.server.schema.fields import Field, State, Structure, Tagged
from inferplane.server.schema.kinds import Json, ListOf, OneOf, Text

__all__ = [
    "chat_picture",
    "images_field",
    "input_picture",
    "messages_picture",
    "picture_part",
]

_MEDIA_TYPES = ("image/png", "image/jpeg", "image/webp", "image/gif")
_URL = "data:image/png;base64,…; https://… from the hosts of --allow-media-domains."
_CACHE = "prefix caching is automatic"


def picture_part(
    path: str, kind_path: str = "", *, url: str = "", base64: str = ""
) -> dict[str, Any]:
    """A part of a chat message."""
    source = {"url": url} if url else {"base64": base64}
    return {
        "type": "image_url",
        "image_url": source,
        "path": path,
        "kind_path": kind_path or f"{path}.type",
    }


def _kind() -> Field:
    return Field("type", Text(1, 64), "Which kind it is.", required=True)


def _detail() -> Field:
    return Field(
        "detail",
        OneOf(("auto", "low", "high", "original")),
        "the model's processor decides",
        State.NOTICED,
        unless=("auto",),
    )


def chat_picture() -> Structure:
    """Part `image_url` of chat completions."""
    where = Structure([Field("url", Text(1), _URL, required=True), _detail()])
    return Structure(
        [
            _kind(),
            Field("image_url", where, "The picture.", required=True),
            Field("cache_control", Json(dict), _CACHE, State.NOTICED),
        ]
    )


def input_picture() -> Structure:
    """Part `input_image` of responses."""
    no_files = "files are kept for batches alone"
    return Structure(
        [
            _kind(),
            Field("image_url", Text(1), _URL, required=True),
            _detail(),
            Field("file_id", Text(), no_files, State.REFUSED, hint="send it as image_url"),
        ]
    )


def messages_picture(cache_control: Field) -> Structure:
    """Block `image` of messages."""
    held = Structure(
        [
            _kind(),
            Field("media_type", OneOf(_MEDIA_TYPES), "What it is.", required=True),
            Field("data", Text(1), "Its base64.", required=True),
        ]
    )
    told = Structure([_kind(), Field("url", Text(1), _URL, required=True)])
    source = Tagged("type", {"base64": held, "url": told}, {"file": "send source type base64"})
    return Structure(
        [_kind(), Field("source", source, "The picture.", required=True), cache_control]
    )


def images_field(limits: Limits) -> Field:
    """`images` of Ollama's routes."""
    return Field("images", ListOf(Text(1), 0, limits.media_items), "Pictures, each as base64.")
