"""Child processes: reached over a socket pair, ending with the parent, deaf to the terminal."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Iterator

__all__ = ["die_with_parent", "ignore_terminal", "socket_pair"]

_PR_SET_PDEATHSIG = 1


@contextlib.contextmanager
def socket_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """(ours, theirs) for a block that starts a child; afterwards only ours is open.

    Neither is when the block raises.
    """
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            yield ours, theirs
    except BaseException:
        ours.close()
        raise


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends (Linux only).

    Closed sockets say the same everywhere, but only to a process that is reading.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died in between
        os.kill(os.getpid(), signal.SIGKILL)


def ignore_terminal() -> None:
    """Ctrl-C and SIGTERM reach the whole process group; the front end decides what they mean."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
