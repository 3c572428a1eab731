"""`inferplane generate`: continue one text and print what follows."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from typing import Annotated

from cyclopts import Parameter

from inferplane.cli.chat import open_model, print_pieces
from inferplane.cli.flags import Given, resolve_given, with_settings
from inferplane.cli.text_model import Sampling
from inferplane.config import ModelSettings
from inferplane.errors import ConfigError
from inferplane.settings import Resolved

__all__ = ["generate"]

_MAX_TOKENS = 128
"""A text without a chat template seldom ends by itself."""


@with_settings(ModelSettings, model_first=False)
def generate(
    given: Given,
    prompt: Annotated[
        str | None, Parameter(help="The text; without it, standard input is read.")
    ] = None,
    *,
    sampling: Sampling | None = None,
) -> int:
    """Continue one text and print what follows; no chat template is applied.

    --model is one to load here, or the URL of a server. At most 128 tokens unless --max-tokens says
    otherwise.
    """
    resolved = resolve_given(given)
    text = sys.stdin.read() if prompt is None else prompt
    if not text:
        raise ConfigError("the prompt is empty: give a text, or pipe one in")
    asked = sampling or Sampling()
    if asked.max_tokens is None:
        asked = replace(asked, max_tokens=_MAX_TOKENS)
    asyncio.run(_generate(resolved, text, asked))
    return 0


async def _generate(resolved: Resolved, prompt: str, sampling: Sampling) -> None:
    model = await open_model(resolved)
    try:
        await print_pieces(model.complete(prompt, sampling))
    finally:
        await model.close()
