"""POST /v1/embeddings and POST /pooling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from inferplane.interfaces import Array
from inferplane.pooled_values import shortened, unit
from inferplane.server.answers.whole_texts import listing, numbers
from inferplane.server.context import ServerContext, Serving
from inferplane.server.errors import ApiError
from inferplane.server.handling import Asked, answer_headers, handle_json
from inferplane.server.pooled import pooled
from inferplane.server.routing import ScopedRoute
from inferplane.server.schema.pooling import embedding_structure, pooling_structure
from inferplane.server.whole_inputs import check_input, whole_inputs

__all__ = ["check_size", "routes"]


def routes(context: ServerContext) -> list[ScopedRoute]:
    """Both routes, with their tables of fields."""
    embedding_fields = embedding_structure(context.limits)
    pooling_fields = pooling_structure(context.limits)

    async def embeddings(request: Request) -> Response:
        async def answer(asked: Asked, serving: Serving) -> Response:
            return await _embeddings(context, asked, serving)

        return await handle_json(context, embedding_fields, request, check_input, answer)

    async def pooling(request: Request) -> Response:
        async def answer(asked: Asked, serving: Serving) -> Response:
            return await _pooling(context, asked, serving)

        return await handle_json(context, pooling_fields, request, check_input, answer)

    return [
        ScopedRoute("/v1/embeddings", embeddings, methods=["POST"], scope="infer"),
        ScopedRoute("/pooling", pooling, methods=["POST"], scope="infer"),
        ScopedRoute("/v1/pooling", pooling, methods=["POST"], scope="infer"),
    ]


async def _embeddings(context: ServerContext, asked: Asked, serving: Serving) -> Response:
    serving.require("embed")
    size = asked.found.get("dimensions")
    check_size(size, serving)
    normalize = asked.found.get("normalize", serving.model.normalize)

    def finished(vector: Array) -> Array:
        whole = vector if size is None else shortened(vector, size)
        return unit(whole) if normalize else whole

    texts = await whole_inputs(context, asked, serving)
    vectors = [finished(v) for v in await pooled(context, serving, asked, texts)]
    encoding = asked.found.get("encoding_format", "float")
    data = [
        {"object": "embedding", "index": index, "embedding": numbers(vector, encoding)}
        for index, vector in enumerate(vectors)
    ]
    body = listing("embd", asked.model_name, data, texts)
    return Response(body, media_type="application/json", headers=answer_headers(context, asked))


def check_size(size: int | None, serving: Serving) -> None:
    """Raises ApiError for a size that the model's embeddings cannot be shortened to."""
    known = serving.model.sizes
    if size is None or size in known:
        return
    told = f"it gives {', '.join(map(str, known))}" if known else "it was not trained for that"
    raise ApiError.of(
        "out_of_range" if known else "unsupported_feature",
        f"dimensions {size}: the model's embeddings cannot be shortened so; {told}",
        "dimensions",
        "leave dimensions out",
    )


async def _pooling(context: ServerContext, asked: Asked, serving: Serving) -> Response:
    """What the model yields, as it is: no probabilities, and unit length only when asked."""
    task = asked.found.get("task")
    serving.require(*(("embed", "classify", "score") if task is None else (task,)))
    normalize = asked.found.get("normalize", False)
    texts = await whole_inputs(context, asked, serving)
    vectors = await pooled(context, serving, asked, texts)
    encoding = asked.found.get("encoding_format", "float")
    data: list[Mapping[str, Any]] = [
        {
            "object": "pooling",
            "index": index,
            "data": numbers(unit(vector) if normalize else vector, encoding),
        }
        for index, vector in enumerate(vectors)
    ]
    body = listing("pool", asked.model_name, data, texts)
    return Response(body, media_type="application/json", headers=answer_headers(context, asked))
