"""One number in shared memory, the time of the engine's last turn: health that shows progress."""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import time
from dataclasses import dataclass

import psutil

__all__ = ["Patience", "Tick", "WakingTime", "is_stopped"]

_TIME = struct.Struct("<d")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a process may give no sign of life, in seconds."""

    stalled_s: float = 30.0
    """After this it counts as not ready, and is replaced if somebody stopped it."""
    hopeless_s: float = 300.0
    """After this it is replaced whatever it does: no step is that long."""


def is_stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal, rather than being slow."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.NoSuchProcess:
        return False


class WakingTime:
    """Since when the watcher itself has been running without a break.

    What stops this process, a debugger or a paused machine, stops the engine too: a silence during
    such a break says nothing about the engine.
    """

    def __init__(self, break_s: float, now_s: float) -> None:
        self.break_s = break_s
        self._since_s = self._seen_s = now_s

    def of(self, age_s: float, now_s: float) -> float:
        """The part of a silence of `age_s` that this process was awake to hear; looked at often."""
        if now_s - self._seen_s > self.break_s:
            self._since_s = now_s
        self._seen_s = now_s
        return min(age_s, now_s - self._since_s)


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
