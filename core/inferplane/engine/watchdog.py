"""One number in shared memory, the time of the engine's last turn: health that shows progress."""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import time

__all__ = ["Tick"]

_TIME = struct.Struct("<d")


class Tick:
    """A page that the engine writes at every turn of its loop and the front end reads.

    The engine turns at least once a second when idle, and once a step when not, so an old time
    means a step that does not end, a stopped process or a lost loop, without asking it anything.
    Times are those of the machine's monotonic clock, which all processes share.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._page = mmap.mmap(fd, mmap.PAGESIZE)

    @classmethod
    def create(cls) -> Tick:
        """A new page, at this time, in a file without a name."""
        with tempfile.TemporaryFile() as file:
            file.truncate(mmap.PAGESIZE)
            tick = cls(os.dup(file.fileno()))
        tick.beat()
        return tick

    def beat(self) -> None:
        """Say that it is alive now."""
        _TIME.pack_into(self._page, 0, time.monotonic())

    def age_s(self) -> float:
        """Seconds since the last beat."""
        return max(0.0, time.monotonic() - float(_TIME.unpack_from(self._page)[0]))

    def close(self) -> None:
        """Give page and descriptor back."""
        self._page.close()
        os.close(self.fd)
