"""`inferplane run-batch`: answer every request of a JSON-lines file, without a server."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import IO, Annotated

from cyclopts import Parameter

from inferplane.cli.flags import Given, resolve_given, with_settings
from inferplane.cli.serve import fetch_to_run
from inferplane.config import ModelSettings, ServeSettings, launch_settings
from inferplane.errors import ConfigError

__all__ = ["run_batch"]


@with_settings(ModelSettings, model_first=False)
def run_batch(
    given: Given,
    *,
    input: Annotated[Path, Parameter(name=["--input", "-i", "--input-file"], help="Requests.")],
    output: Annotated[Path, Parameter(name=["--output", "-o", "--output-file"], help="Results.")],
    at_once: Annotated[int, Parameter(help="Requests under way.")] = 64,
) -> int:
    """Answer every request of a file of lines {"custom_id", "method", "url", "body"}.

    The lines go through the server's own handlers, and the results are what /v1/batches gives: one
    line a request, in the order in which they end. Exit code 1 when one of them is an error.
    """
    settings = ModelSettings(**resolve_given(given).of(ModelSettings))
    try:
        data = input.read_bytes()
        with output.open("wb") as file:
            return asyncio.run(_run(settings, data, max(1, at_once), file))
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from None


async def _run(settings: ModelSettings, data: bytes, at_once: int, output: IO[bytes]) -> int:
    from inferplane.cli.startup import show_startup  # 150 ms that --help need not pay
    from inferplane.engine.client import EngineClient
    from inferplane.server.app import create_app
    from inferplane.server.auth import Caller
    from inferplane.server.batches.lines import ENDPOINTS, LineRunner, read_lines
    from inferplane.server.context import ServerContext

    lines, errors = read_lines(data, ENDPOINTS, sys.maxsize)
    if errors:
        first = errors[0]
        raise ConfigError(f"the input, line {first.line or 1}: {first.message}")
    served = ServeSettings(
        launch=launch_settings(settings, fetch_to_run(settings)),
        model_source=settings.model,
        chat_template=settings.chat_template,
        generation_config=settings.generation_config,
    )
    client = EngineClient.launch(served.launch)
    context = ServerContext(served, client)
    create_app(context)
    context.start()
    await client.start()
    try:
        await show_startup(client, sys.stderr)
        runner = LineRunner(context.inner_gate, at_once, context.note_failure)
        caller = Caller("", frozenset(("infer",)))
        good = 0
        for ended in asyncio.as_completed([runner.run(line, caller) for line in lines]):
            succeeded, told = await ended
            output.write(told)
            good += succeeded
    finally:
        await client.close()
        await context.close()
    print(f"{good} of {len(lines)} requests succeeded", file=sys.stderr)
    return 0 if good == len(lines) else 1
