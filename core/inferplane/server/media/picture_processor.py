"""The parent's side of preparing pictures: one limited process for one checkpoint."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import sha256
from pathlib import Path
from threading import Lock

import msgspec

from inferplane.array_messages import decoder
from inferplane.errors import ModelError
from inferplane.limited_process import LimitedProcess, LimitExceeded
from inferplane.server.media.picture_messages import (
    Loaded,
    PictureBytes,
    PicturesOf,
    ReadPicture,
)
from inferplane.server.media.prompt import PictureToken

__all__ = ["PictureProcessor"]

_READ_S = 30.0
"""Wall clock; the process itself may burn twenty seconds of processor."""
_HELD_BYTES = 128 * 1024 * 1024
_INSTALL = 'pip install "inferplane[vision]"'


class PictureProcessor:
    """Reads pictures for one model. Safe to share between threads; pictures take turns.

    What was read is remembered for each tenant, within a bound in bytes: a conversation sends its
    pictures again with every turn.
    """

    def __init__(self, folder: Path, token: PictureToken, most_pixels: int) -> None:
        """Starts nothing yet."""
        self.folder = folder
        self.token = token
        greeting = PicturesOf(str(folder), token.text, token.id, most_pixels)
        self._process = LimitedProcess(
            "inferplane.server.media.picture_child",
            msgspec.msgpack.encode(greeting),
            deadline_s=_READ_S,
        )
        self._answers = decoder(ReadPicture)
        self._lock = Lock()
        self._held: OrderedDict[tuple[str, bytes], ReadPicture] = OrderedDict()

    def start(self) -> None:
        """Start the process, and see that it can read. Raises ModelError saying what is missing."""
        try:
            loaded = msgspec.msgpack.decode(self._process.start(), type=Loaded)
        except LimitExceeded as error:
            raise ModelError(f"pictures for {self.folder}: {error}") from None
        if loaded.fault:
            self._process.close()
            raise ModelError(
                f"pictures for {self.folder} cannot be prepared: {loaded.fault}; want "
                f"{_INSTALL}, and the processor's files beside the weights "
                "(preprocessor_config.json or processor_config.json)"
            )

    def close(self) -> None:
        """End the process; a later picture starts it again."""
        self._process.close()

    def read(self, data: bytes, tenant: str = "") -> ReadPicture:
        """What stands for a picture. Blocks up to seconds, so event loops call it in a thread."""
        key = tenant, sha256(data).digest()
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        try:
            answer = self._process.call(msgspec.msgpack.encode(PictureBytes(data)))
        except LimitExceeded:
            return ReadPicture(fault="it takes too long or too much memory to read")
        read: ReadPicture = self._answers(bytearray(answer))
        if not read.fault:
            self._keep(key, read)
        return read

    def _keep(self, key: tuple[str, bytes], read: ReadPicture) -> None:
        with self._lock:
            self._held[key] = read
            while len(self._held) > 1 and sum(map(_size, self._held.values())) > _HELD_BYTES:
                self._held.popitem(last=False)


def _size(read: ReadPicture) -> int:
    return sum(array.nbytes for array in read.arrays.values())
