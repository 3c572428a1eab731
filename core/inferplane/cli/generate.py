"""`inferplane generate`: continue one text and print what follows."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

from cyclopts import Parameter

from inferplane.cli.chat import open_model, print_pieces
from inferplane.cli.flags import Given, resolve_given, with_settings
from inferplane.cli.text_model import Sampling
from inferplane.config import ModelSettings
from inferplane.errors import ConfigError
from inferplane.settings import Resolved

__all__ = ["generate"]


@with_settings(ModelSettings, model_first=False)
def generate(
    given: Given,
    prompt: Annotated[
        str | None, Parameter(help="The text; '-' or none reads it from stdin.")
    ] = None,
    *,
    temperature: float | None = None,
    top_p: float | None = None,
    max_tokens: Annotated[int, Parameter(help="Most tokens to print.")] = 128,
    stop: Annotated[list[str] | None, Parameter(help="End before this text; may repeat.")] = None,
) -> int:
    """Continue one text and print what follows; no chat template is applied.

    --model is one to load here, or the URL of a server.
    """
    resolved = resolve_given(given)
    text = sys.stdin.read() if prompt in (None, "-") else prompt
    if not text:
        raise ConfigError("the prompt is empty: give a text, or pipe one in")
    sampling = Sampling(
        temperature=temperature, top_p=top_p, max_tokens=max_tokens, stop=tuple(stop or ())
    )
    asyncio.run(_generate(resolved, text, sampling))
    return 0


async def _generate(resolved: Resolved, prompt: str, sampling: Sampling) -> None:
    model = await open_model(resolved)
    try:
        await print_pieces(model.complete(prompt, sampling))
    finally:
        await model.close()
