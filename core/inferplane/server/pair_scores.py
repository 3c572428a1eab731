"""Scores of pairs: by a model that reads both texts at once, else by the angle of two vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from inferplane.pooled_values import cosine, relevance
from inferplane.server.context import ServerContext, Serving
from inferplane.server.handling import Asked
from inferplane.server.pooled import WholeText, framed_pair, framed_text, pooled

__all__ = ["Pair", "pair_scores"]


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and what to score against it."""

    query: str
    text: str
    param: str
    """Path of the field that `text` came from."""


async def pair_scores(
    context: ServerContext,
    asked: Asked,
    serving: Serving,
    pairs: Sequence[Pair],
    most_tokens: int | None = None,
) -> tuple[list[float], list[WholeText]]:
    """One score a pair, and what the model read for them. Raises ApiError.

    `most_tokens` is for each text alone. A cross-encoder's scores are between 0 and 1, cosines of
    embeddings between -1 and 1.
    """
    serving.require("score")
    if "embed" in serving.info.tasks:
        return await _by_angle(context, asked, serving, pairs, most_tokens)
    texts = [
        await framed_pair(context, serving, asked, (pair.query, pair.text), pair.param, most_tokens)
        for pair in pairs
    ]
    return [relevance(scores) for scores in await pooled(context, serving, asked, texts)], texts


async def _by_angle(
    context: ServerContext,
    asked: Asked,
    serving: Serving,
    pairs: Sequence[Pair],
    most_tokens: int | None,
) -> tuple[list[float], list[WholeText]]:
    """Each different text is embedded once."""
    params = {pair.query: "query" for pair in pairs} | {pair.text: pair.param for pair in pairs}
    texts = [
        await framed_text(context, serving, asked, text, param, most_tokens)
        for text, param in params.items()
    ]
    vectors = dict(zip(params, await pooled(context, serving, asked, texts), strict=True))
    return [cosine(vectors[pair.query], vectors[pair.text]) for pair in pairs], texts
