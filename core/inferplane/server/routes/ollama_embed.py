"""POST /api/embed, as Ollama's clients send it."""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import Response

from inferplane.pooled_values import shortened, unit
from inferplane.server.answers.frames import encode
from inferplane.server.context import ServerContext, Serving
from inferplane.server.handling import Asked, answer_headers, handle_json
from inferplane.server.pooled import framed_text, pooled
from inferplane.server.routes.embeddings import check_size
from inferplane.server.routing import ScopedRoute
from inferplane.server.schema.ollama import embed_structure

__all__ = ["routes"]


def routes(context: ServerContext) -> list[ScopedRoute]:
    """The route, with its table of fields."""
    structure = embed_structure(context.limits)

    async def embed(request: Request) -> Response:
        async def answer(asked: Asked, serving: Serving) -> Response:
            return await _answer(context, asked, serving)

        return await handle_json(context, structure, request, lambda found, report: None, answer)

    return [ScopedRoute("/api/embed", embed, methods=["POST"], scope="infer", dialect="ollama")]


async def _answer(context: ServerContext, asked: Asked, serving: Serving) -> Response:
    serving.require("embed")
    found = asked.found
    size = found.get("dimensions")
    check_size(size, serving)
    given = [found["input"]] if isinstance(found["input"], str) else found["input"]
    most = serving.info.max_model_len if found.get("truncate", True) else None
    texts = [
        await framed_text(context, serving, asked, text, f"input.{index}", most)
        for index, text in enumerate(given)
    ]
    vectors = await pooled(context, serving, asked, texts)
    if size is not None:
        vectors = [shortened(vector, size) for vector in vectors]
    if serving.model.normalize:
        vectors = [unit(vector) for vector in vectors]
    body = {
        "model": asked.model_name,
        "embeddings": [vector.tolist() for vector in vectors],
        "total_duration": round((time.monotonic() - asked.began) * 1e9),
        "load_duration": 0,
        "prompt_eval_count": sum(len(text.ids) for text in texts),
    }
    headers = answer_headers(context, asked)
    return Response(encode(body), media_type="application/json", headers=headers)
