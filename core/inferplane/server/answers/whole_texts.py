"""Answers about whole texts: vectors, scores, ranks and classes."""

from __future__ import annotations

import secrets
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence

from inferplane.interfaces import Array
from inferplane.server.answers.frames import encode
from inferplane.server.pooled import WholeText

__all__ = ["listing", "numbers", "text_usage"]


def text_usage(texts: Sequence[WholeText]) -> dict[str, int]:
    """The `usage` object: nothing is generated."""
    size = sum(len(text.ids) for text in texts)
    return {"prompt_tokens": size, "total_tokens": size}


def numbers(vector: Array, encoding: str) -> object:
    """f32[D] as a list, or as base64 of little-endian float32."""
    if encoding == "base64":
        return b64encode(vector.astype("<f4").tobytes()).decode()
    return vector.tolist()


def listing(
    kind: str, model: str, data: Sequence[Mapping[str, object]], texts: Sequence[WholeText]
) -> bytes:
    """A body with one entry a text; `kind` begins its id."""
    return encode(
        {
            "id": f"{kind}-{secrets.token_hex(12)}",
            "object": "list",
            "created": int(time.time()),
            "model": model,
            "data": data,
            "usage": text_usage(texts),
        }
    )
