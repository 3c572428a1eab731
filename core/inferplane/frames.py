"""Length-prefixed frames over a local stream socket: the wire of engine, workers and front end.

Knows nothing of what is in a frame.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections import deque

__all__ = ["MOST_FRAME_BYTES", "FrameBuffer", "FrameSocket", "frame"]

MOST_FRAME_BYTES = 1 << 30
"""A larger length is a damaged stream, not a message."""
_LENGTH = struct.Struct("<I")
_CHUNK = 1 << 18


def frame(payload: bytes) -> bytes:
    """A payload with its length in front."""
    return _LENGTH.pack(len(payload)) + payload


class FrameBuffer:
    """Bytes as they arrive become whole frames."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._needed = _LENGTH.size

    def feed(self, data: bytes) -> list[bytearray]:
        """Frames completed by `data`, in order, each its own writable bytes.

        ValueError when a length is absurd.
        """
        held = self._bytes
        held += data
        if len(held) < self._needed:
            return []
        frames: list[bytearray] = []
        at = 0
        while len(held) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(held, at)
            if length > MOST_FRAME_BYTES:
                raise ValueError(f"a frame of {length} bytes")
            end = at + _LENGTH.size + length
            if len(held) < end:
                self._needed = end - at
                break
            frames.append(held[at + _LENGTH.size : end])
            at = end
        else:
            self._needed = _LENGTH.size
        del held[:at]
        return frames


class FrameSocket:
    """One end of a socket pair, for code without an event loop.

    Reading never blocks unless asked to; writing never blocks: what the other side does not take
    waits here.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._frames: deque[bytearray] = deque()
        self._buffer = FrameBuffer()
        self._unsent = bytearray()
        self._poll = select.poll()
        self.closed = False
        """The other side is gone; frames that had arrived can still be taken."""

    def fileno(self) -> int:
        """For select."""
        return self._end.fileno()

    @property
    def unsent_bytes(self) -> int:
        """What waits for the other side to read."""
        return len(self._unsent)

    def send(self, payload: bytes) -> None:
        """Queue one frame and send what the other side takes. Nothing is lost but at its death."""
        self._unsent += frame(payload)
        self.flush()

    def flush(self) -> None:
        """Send what is left from before."""
        while self._unsent:
            try:
                sent = self._end.send(self._unsent)
            except BlockingIOError:
                return
            except OSError:  # nobody reads any more; what was said before can still be taken
                self._unsent.clear()
                return
            del self._unsent[:sent]

    def drain(self, timeout_s: float) -> None:
        """Wait until everything is sent, the other side is gone, or the time is over."""
        deadline = time.monotonic() + timeout_s
        poll = select.poll()
        poll.register(self._end, select.POLLOUT)
        while self._unsent and (left := deadline - time.monotonic()) > 0:
            poll.poll(left * 1000)
            self.flush()

    def take(self) -> bytearray | None:
        """The next frame that has arrived, or None."""
        if not self._frames:
            self._read()
        return self._frames.popleft() if self._frames else None

    def wait(self, timeout_s: float | None) -> None:
        """Return when something can be read, the other side is gone, or the time is over.

        What could not be sent before goes out meanwhile.
        """
        if self._frames or self.closed:
            return
        wanted = select.POLLIN | (select.POLLOUT if self._unsent else 0)
        self._poll.register(self._end, wanted)
        self._poll.poll(None if timeout_s is None else timeout_s * 1000)
        self.flush()

    def receive(self) -> bytearray:
        """Block until a frame is there. EOFError when the other side is gone."""
        while True:
            payload = self.take()
            if payload is not None:
                return payload
            if self.closed:
                raise EOFError("the other side closed its socket")
            self.wait(None)

    def close(self) -> None:
        """Give the socket back."""
        self.closed = True
        self._end.close()

    def _read(self) -> None:
        while not self.closed:
            try:
                data = self._end.recv(_CHUNK)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.closed = True
                return
            self._frames.extend(self._buffer.feed(data))
            if len(data) < _CHUNK:
                return
