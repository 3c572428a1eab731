"""Token ids of a prompt with pictures: every mark of a picture becomes what stands for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from inferplane.errors import RequestError
from inferplane.media import MediaItem, media_item
from inferplane.server.media.picture_messages import ReadPicture
from inferplane.tokenization.tokenizer import Tokenizer

__all__ = ["PictureToken", "encode_marked", "place_pictures"]


@dataclass(frozen=True, slots=True)
class PictureToken:
    """How the model writes a picture, and how a text does until it is tokenised."""

    id: int
    text: str
    """What the tokenizer reads as `id`; in a user's text it is only text."""
    mark: str
    """Stands for a picture in text; nobody outside knows it."""


def encode_marked(
    tokenizer: Tokenizer, text: str, token: PictureToken, count: int, add_special_tokens: bool
) -> list[int]:
    """Ids of a text in which `count` marks stand, each mark as one `token.id`, and no other.

    Raises RequestError `template_rejected` where text and pictures do not fit together.
    """
    pieces = text.split(token.mark)
    ids: list[int] = []
    for number, chunk in enumerate(_chunks(pieces, token.text)):
        ids += tokenizer.encode(chunk, add_special_tokens and number == 0)
    if len(pieces) != count + 1 or ids.count(token.id) != count:
        raise RequestError(
            "template_rejected",
            f"the chat template writes {len(pieces) - 1} of {count} pictures, or a text is read as "
            "one",
            "messages",
        )
    return ids


def _chunks(pieces: Sequence[str], token: str) -> list[str]:
    """The text with the token between the pieces, parted inside each that the pieces hold: a token
    written by a user is tokenised as two halves, so that it stands for nothing."""
    half = len(token) // 2
    chunks = [""]
    for number, piece in enumerate(pieces):
        if number:
            chunks[-1] += token
        first, *others = piece.split(token)
        chunks[-1] += first
        for other in others:
            chunks[-1] += token[:half]
            chunks.append(token[half:] + other)
    return chunks


def place_pictures(
    ids: Sequence[int], token_id: int, pictures: Sequence[ReadPicture]
) -> tuple[list[int], tuple[MediaItem, ...]]:
    """The ids with each `token_id` replaced by what stands for its picture, and the items."""
    placed: list[int] = []
    items: list[MediaItem] = []
    for id in ids:
        if id != token_id:
            placed.append(id)
            continue
        picture = pictures[len(items)]
        first = picture.ids.index(token_id)
        length = len(picture.ids) - picture.ids[::-1].index(token_id) - first
        items.append(media_item(offset=len(placed) + first, length=length, arrays=picture.arrays))
        placed += picture.ids
    return placed, tuple(items)
