"""Shows an engine coming up, phase by phase, and waits until it takes requests."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TextIO

from inferplane.engine.client import EngineClient
from inferplane.engine.messages import EngineInfo

__all__ = ["show_startup"]

_LOOK_EVERY_S = 0.1


async def show_startup(client: EngineClient, stream: TextIO) -> EngineInfo:
    """What the engine is, once it is ready. Raises the engine's own failure.

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
    plugin = f"{info.plugin} {info.plugin_version}".strip()
    print(
        f"{info.device} ({plugin}), {info.dtype}, context {info.max_model_len}, ready in "
        f"{took:.1f} s",
        file=stream,
        flush=True,
    )
    return info


async def _draw(client: EngineClient, stream: TextIO) -> None:
    while True:
        status = client.status
        percent = f" {100 * status.done // status.total:3d} %" if status.total else ""
        stream.write(f"\r\x1b[K{status.phase}{percent} {status.detail}")
        stream.flush()
        await asyncio.sleep(_LOOK_EVERY_S)
