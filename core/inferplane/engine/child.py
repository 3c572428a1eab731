"""Starts one engine process and speaks with it inside an event loop; knows nothing of requests."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import cast

import msgspec

from inferplane.array_messages import encoder
from inferplane.child_process import socket_pair
from inferplane.engine.messages import FromEngine, ToEngine
from inferplane.engine.watchdog import Tick
from inferplane.frames import FrameBuffer, frame
from inferplane.launch import LaunchPlan

__all__ = ["EngineChild"]

_REAP_S = 5.0
"""A process that closed its socket has this long to leave by itself."""


class EngineChild(asyncio.Protocol):
    """One engine process, from its start to its exit code."""

    def __init__(self, receive: Callable[[FromEngine], None]) -> None:
        self._receive = receive
        self._decode = msgspec.msgpack.Decoder(FromEngine).decode
        self._encode = encoder()
        self._buffer = FrameBuffer()
        self._transport: asyncio.Transport | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._tick = Tick.create()
        self._gone = asyncio.get_running_loop().create_future()

    async def start(self, plan: LaunchPlan, environment: Mapping[str, str]) -> None:
        """Start the process and send it its plan.

        Call it on the thread whose end shall end the engine, usually the main one.
        """
        inline = plan.topology.placement == "inline"
        own = plan.worker_env[0] if inline and plan.worker_env else {}
        with socket_pair() as (ours, theirs):
            fds = (theirs.fileno(), self._tick.fd)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "inferplane.engine.process", *map(str, fds)],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what a library prints is log, never an answer
                pass_fds=fds,
                env={**environment, **own},
            )
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self, sock=ours)
        assert self._transport is not None
        self._transport.write(frame(msgspec.msgpack.encode(plan)))

    def send(self, message: ToEngine) -> None:
        """Queue a message; lost when the engine is gone."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame(self._encode(message)))

    async def wait(self) -> int:
        """Until the process ended; its exit code, negative for a signal."""
        await asyncio.shield(self._gone)
        assert self._process is not None
        patience = _REAP_S
        while (code := self._process.poll()) is None:
            await asyncio.sleep(0.01)
            patience -= 0.01
            if patience < 0:
                self._process.kill()
        return code

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Give back what belonged to a process that has ended."""
        if self._transport is not None:
            self._transport.close()
        self._tick.close()

    @property
    def pid(self) -> int:
        """Of the process; 0 before it started."""
        return self._process.pid if self._process is not None else 0

    @property
    def tick_age_s(self) -> float:
        """Seconds since the engine's loop turned last."""
        return self._tick.age_s()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """(asyncio) The socket is in the loop."""
        self._transport = cast(
            asyncio.Transport, transport
        )  # other loops have classes of their own

    def data_received(self, data: bytes) -> None:
        """(asyncio) Bytes from the engine."""
        for payload in self._buffer.feed(data):
            self._receive(self._decode(payload))

    def connection_lost(self, exc: Exception | None) -> None:
        """(asyncio) The engine's end is closed: its process is ending or dead."""
        if not self._gone.done():
            self._gone.set_result(None)
