"""POST /score and POST /rerank: how well texts answer a query, under every path clients use."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from inferplane.server.answers.frames import encode
from inferplane.server.answers.whole_texts import listing, text_usage
from inferplane.server.context import ServerContext, Serving
from inferplane.server.handling import Asked, answer_headers, handle_json
from inferplane.server.pair_scores import Pair, pair_scores
from inferplane.server.routing import ScopedRoute
from inferplane.server.schema.pooling import rerank_structure, score_structure
from inferplane.server.schema.report import Report

__all__ = ["routes"]


def routes(context: ServerContext) -> list[ScopedRoute]:
    """Five paths, two answers, with their tables of fields."""
    score_fields = score_structure(context.limits)
    rerank_fields = rerank_structure(context.limits)

    async def score(request: Request) -> Response:
        async def answer(asked: Asked, serving: Serving) -> Response:
            return await _score(context, asked, serving)

        return await handle_json(context, score_fields, request, _check_shapes, answer)

    async def rerank(request: Request) -> Response:
        async def answer(asked: Asked, serving: Serving) -> Response:
            return await _rerank(context, asked, serving)

        return await handle_json(context, rerank_fields, request, lambda *_: None, answer)

    return [
        *(
            ScopedRoute(path, score, methods=["POST"], scope="infer")
            for path in ("/score", "/v1/score")
        ),
        *(
            ScopedRoute(path, rerank, methods=["POST"], scope="infer")
            for path in ("/rerank", "/v1/rerank", "/v2/rerank")
        ),
    ]


def _check_shapes(found: Mapping[str, Any], report: Report) -> None:
    """One to one, one to many, or as many as many."""
    if "text_1" not in found or "text_2" not in found:
        return
    one, two = len(_listed(found["text_1"])), len(_listed(found["text_2"]))
    if one not in (1, two):
        said = f"text_1 has {one} texts and text_2 {two}: send one text_1, or as many as text_2"
        report.wrong("conflicting_fields", "text_1", said)


def _listed(given: str | list[str]) -> list[str]:
    return [given] if isinstance(given, str) else given


async def _score(context: ServerContext, asked: Asked, serving: Serving) -> Response:
    queries, texts = _listed(asked.found["text_1"]), _listed(asked.found["text_2"])
    if len(queries) == 1:
        queries = queries * len(texts)
    many = isinstance(asked.found["text_2"], list)
    pairs = [
        Pair(query, text, f"text_2.{index}" if many else "text_2")
        for index, (query, text) in enumerate(zip(queries, texts, strict=True))
    ]
    scores, read = await pair_scores(context, asked, serving, pairs)
    data = [
        {"object": "score", "index": index, "score": score} for index, score in enumerate(scores)
    ]
    body = listing("score", asked.model_name, data, read)
    return Response(body, media_type="application/json", headers=answer_headers(context, asked))


async def _rerank(context: ServerContext, asked: Asked, serving: Serving) -> Response:
    found = asked.found
    documents = [d if isinstance(d, str) else d["text"] for d in found["documents"]]
    pairs = [
        Pair(found["query"], text, f"documents.{index}") for index, text in enumerate(documents)
    ]
    most = found.get("max_tokens_per_doc")
    scores, read = await pair_scores(context, asked, serving, pairs, most)
    shown = documents if found.get("return_documents", True) else None
    body = {
        "id": f"rerank-{secrets.token_hex(12)}",
        "model": asked.model_name,
        "usage": text_usage(read),
        "results": _ranked(scores, shown)[: found.get("top_n")],
    }
    headers = answer_headers(context, asked)
    return Response(encode(body), media_type="application/json", headers=headers)


def _ranked(scores: Sequence[float], documents: Sequence[str] | None) -> list[dict[str, object]]:
    """Best first; equal scores keep the order they came in."""
    results: list[dict[str, object]] = []
    for index in sorted(range(len(scores)), key=lambda i: -scores[i]):
        result: dict[str, object] = {"index": index, "relevance_score": scores[index]}
        if documents is not None:
            result["document"] = {"text": documents[index]}
        results.append(result)
    return results
