"""What crosses between `picture_processor.py` and the process that decodes; loads no library."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["Loaded", "PictureBytes", "PicturesOf", "ReadPicture"]


class PicturesOf(msgspec.Struct, frozen=True):
    """The checkpoint this process is for."""

    folder: str
    image_token: str
    """Text of the token that stands for a picture."""
    image_token_id: int
    most_pixels: int


class Loaded(msgspec.Struct, frozen=True):
    """That the processor is there; `fault` says why it is not."""

    fault: str = ""


class PictureBytes(msgspec.Struct, frozen=True):
    """One picture as a client sent it."""

    data: bytes


class ReadPicture(msgspec.Struct, frozen=True):
    """What stands for one picture, or why it cannot be used."""

    ids: list[int] = []
    """Tokens that take the place of the one that stands for it."""
    arrays: dict[str, Any] = {}
    """`Array`s by the names that the model's encoder gives them."""
    fault: str = ""
    """Fit for a client: made of our own words alone."""
