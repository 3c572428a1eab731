"""Shows an engine coming up, phase by phase, and waits until it takes requests."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TextIO

from inferplane.engine.client import EngineClient

__all__ = ["show_startup"]

_LOOK_EVERY_S = 0.1


async def show_startup(client: EngineClient, stream: TextIO) -> None:
    """Return when the engine is ready. Raises the engine's own failure.

    On a terminal one line that changes; elsewhere nothing until it is ready.
    """
    began = time.monotonic()
    drawing = asyncio.create_task(_draw(client, stream)) if stream.isatty() else None
    try:
        info = await client.wait_ready()
    finally:
        if drawing is not None:
            drawing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await drawing
            stream.write("\r\x1b[K")
    took = time.monotonic() - began
    print(
        f"{info.device} ({info.plugin} {info.plugin_version}), {info.dtype}, context "
        f"{info.max_model_len}, ready in {took:.1f} s",
        file=stream,
        flush=True,
    )


async def _draw(client: EngineClient, stream: TextIO) -> None:
    while True:
        status = client.status
        percent = f" {100 * status.done // status.total:3d} %" if status.total else ""
        stream.write(f"\r\x1b[K{status.phase}{percent} {status.detail}")
        stream.flush()
        await asyncio.sleep(_LOOK_EVERY_S)
