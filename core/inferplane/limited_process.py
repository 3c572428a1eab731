"""A helper process for work that strangers' input may blow up: one message at a time, in limits.

Knows nothing of what the messages mean. The parent kills the process that answers too late; the
child bounds its own memory and processor time; either way the next call starts a fresh one.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

from inferplane.child_process import socket_pair
from inferplane.errors import InferplaneError

__all__ = ["LimitExceeded", "LimitedProcess", "answer_messages"]

_LENGTH = struct.Struct("<I")
_MAX_FRAME_BYTES = 256 * 1024 * 1024
_START_S = 30.0
"""A first answer includes starting an interpreter, on a machine that may be busy."""


class LimitExceeded(InferplaneError):
    """The helper process took too long, or died of its work."""


class LimitedProcess:
    """The parent's side. Safe to share between threads; calls take turns.

    `module` is run with `-m`; its main calls `answer_messages`. `greeting` is the first message to
    every process started.
    """

    def __init__(self, module: str, greeting: bytes, *, deadline_s: float) -> None:
        self.module = module
        self.greeting = greeting
        self.deadline_s = deadline_s
        self._lock = threading.Lock()
        self._child: tuple[subprocess.Popen[bytes], socket.socket] | None = None
        self._finalizer: weakref.finalize[..., LimitedProcess] | None = None

    def start(self) -> bytes:
        """Start a process and return its answer to the greeting. Raises LimitExceeded."""
        with self._lock:
            return self._start()

    def call(self, message: bytes) -> bytes:
        """The answer to one message. Raises LimitExceeded; the next call starts afresh."""
        with self._lock:
            if self._child is None:
                self._start()
            return self._exchange(message, self.deadline_s)

    def close(self) -> None:
        """End the process. Idempotent."""
        with self._lock:
            self._end()

    def _start(self) -> bytes:
        self._end()
        with socket_pair() as (ours, theirs):
            process = subprocess.Popen(
                [sys.executable, "-m", self.module],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # an interrupt typed at the terminal is not for it
            )
        self._child = process, ours
        self._finalizer = weakref.finalize(self, _end, process, ours)
        return self._exchange(self.greeting, _START_S)

    def _end(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
        self._child = self._finalizer = None

    def _exchange(self, message: bytes, limit_s: float) -> bytes:
        assert self._child is not None
        link = self._child[1]
        try:
            until = time.monotonic() + limit_s
            link.settimeout(limit_s)
            link.sendall(_LENGTH.pack(len(message)) + message)
            (length,) = _LENGTH.unpack(_receive(link, _LENGTH.size, until))
            if length > _MAX_FRAME_BYTES:
                raise LimitExceeded(f"{self.module}: an answer of {length} bytes")
            return _receive(link, length, until)
        except TimeoutError:
            self._end()
            raise LimitExceeded(f"{self.module}: no answer within {limit_s:g} s") from None
        except (OSError, EOFError):
            self._end()
            raise LimitExceeded(f"{self.module}: its process died of the work") from None
        except BaseException:
            self._end()  # an answer left unread would be taken for the next one
            raise


def _end(process: subprocess.Popen[bytes], link: socket.socket) -> None:
    link.close()
    process.kill()
    process.wait()


def _receive(link: socket.socket, size: int, until: float) -> bytes:
    parts: list[bytes] = []
    while size:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        link.settimeout(left)
        part = link.recv(min(size, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def answer_messages(
    handle: Callable[[bytes], bytes],
    *,
    memory_bytes: int,
    cpu_s: int,
    out_of_memory: bytes,
    limit_greeting: bool = True,
) -> None:
    """The child's side: answer messages from standard input's socket until it closes.

    `memory_bytes` more than now may be mapped and each message may burn `cpu_s`; `out_of_memory` is
    the answer to one that wanted more. Without `limit_greeting`, memory counts from after the first
    message, which the parent vouches for.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    link = socket.socket(fileno=os.dup(0))
    limited = False
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    while True:
        try:
            (length,) = _LENGTH.unpack(_read(link, _LENGTH.size))
            message = _read(link, length)
        except EOFError:
            return
        if limit_greeting and not limited:
            _limit(resource.RLIMIT_AS, _mapped_bytes() + memory_bytes)
            limited = True
        limit_greeting = True
        used = resource.getrusage(resource.RUSAGE_SELF)
        spent = int(used.ru_utime + used.ru_stime) + 1
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (spent + cpu_s, hard))
        try:
            answer = handle(message)
        except MemoryError:
            answer = out_of_memory
        link.sendall(_LENGTH.pack(len(answer)) + answer)


def _read(link: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = link.recv(min(size - len(data), 1 << 20))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _mapped_bytes() -> int:
    """Address space in use; 0 where the system does not tell, which only tightens the limit."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return 0
    return pages * resource.getpagesize()
