"""Pictures in a prompt: which positions stand for one, and what the model's encoder reads of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import msgspec
import numpy as np

from inferplane.errors import RequestError

__all__ = ["MOST_MEDIA_BYTES", "MediaItem", "check_media_room", "media_item"]

MOST_MEDIA_BYTES = 768 << 20
"""Of the pictures of all requests that have not ended, as the encoder reads them: whatever of them
meets in one step stays within a frame of the sockets between processes."""

_Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


class MediaItem(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One picture: the placeholders within [offset, offset + length) of the prompt stand for it.

    Placeholders are the prompt tokens equal to the model's image token; what marks the tiles of one
    picture may stand between them.
    """

    content_id: str
    """Hex SHA-256 of everything that decides its embedding; equal ids are equal pictures."""
    offset: int
    """First prompt position that belongs to it."""
    length: int
    """Positions from its first placeholder to its last, both included."""
    arrays: dict[str, _Array] = {}
    """What the model's encoder takes for this picture alone, by the names that the transformers
    library's class gives: `pixel_values` f32[...], `image_sizes`, …"""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MediaItem) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def end(self) -> int:
        """The position after its last placeholder."""
        return self.offset + self.length

    @property
    def num_bytes(self) -> int:
        """Of its arrays."""
        return sum(array.nbytes for array in self.arrays.values())

    @property
    def _key(self) -> tuple[str, int, int]:
        return self.content_id, self.offset, self.length


def media_item(
    *, offset: int, length: int, arrays: Mapping[str, _Array], kind: str = "image"
) -> MediaItem:
    """An item with its `content_id`, which is a function of `kind` and the arrays alone.

    Masks, which processors give in eight bytes a pixel, are kept in one.
    """
    digest = hashlib.sha256(kind.encode())
    held = {
        name: np.ascontiguousarray(array != 0 if name.endswith("_mask") else array)
        for name, array in sorted(arrays.items())
    }
    for name, array in held.items():
        digest.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data)
    return MediaItem(content_id=digest.hexdigest(), offset=offset, length=length, arrays=held)


def check_media_room(items: Iterable[MediaItem], held: int = 0) -> None:
    """Raise RequestError when a request's pictures are too many: `capacity_exceeded` by themselves,
    `queue_full` beside the `held` bytes of others.
    """
    size = sum(item.num_bytes for item in items)
    if size <= MOST_MEDIA_BYTES - held:
        return
    mib = f"{size / 2**20:.0f} MiB as the model reads them"
    most = f"{MOST_MEDIA_BYTES >> 20} MiB"
    if size > MOST_MEDIA_BYTES:
        text = f"the pictures are {mib}; at most {most} are taken: send fewer or smaller ones"
        raise RequestError("capacity_exceeded", text, "prompt")
    raise RequestError(
        "queue_full",
        f"the pictures are {mib}, and of {most} those of other requests hold {held >> 20}: try "
        "later",
    )
