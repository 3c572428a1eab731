"""POST /classify: which class a text belongs to, with the probability of each."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from inferplane.interfaces import Array
from inferplane.pooled_values import class_shares
from inferplane.server.answers.whole_texts import listing
from inferplane.server.context import ServerContext, Serving
from inferplane.server.handling import Asked, answer_headers, handle_json
from inferplane.server.pooled import pooled
from inferplane.server.routing import ScopedRoute
from inferplane.server.schema.pooling import classify_structure
from inferplane.server.whole_inputs import check_input, whole_inputs

__all__ = ["routes"]


def routes(context: ServerContext) -> list[ScopedRoute]:
    """Two paths, with their table of fields."""
    structure = classify_structure(context.limits)

    async def classify(request: Request) -> Response:
        async def answer(asked: Asked, serving: Serving) -> Response:
            return await _answer(context, asked, serving)

        return await handle_json(context, structure, request, check_input, answer)

    return [
        ScopedRoute(path, classify, methods=["POST"], scope="infer")
        for path in ("/classify", "/v1/classify")
    ]


async def _answer(context: ServerContext, asked: Asked, serving: Serving) -> Response:
    serving.require("classify")
    texts = await whole_inputs(context, asked, serving)
    scores = await pooled(context, serving, asked, texts)
    labels = serving.model.labels
    data = [_entry(index, row, labels) for index, row in enumerate(scores)]
    body = listing("classify", asked.model_name, data, texts)
    return Response(body, media_type="application/json", headers=answer_headers(context, asked))


def _entry(index: int, scores: Array, labels: tuple[str, ...]) -> dict[str, object]:
    probs = class_shares(scores)
    best = max(range(len(probs)), key=probs.__getitem__)
    return {"index": index, "label": labels[best], "probs": probs, "num_classes": len(probs)}
