"""What Ollama's clients ask about models: /api/tags, /api/ps, /api/show, /api/version, /api/embed.

Models come with the server; routes that would fetch or change them say how that is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from inferplane.checkpoint import open_checkpoint
from inferplane.server.answers.frames import encode
from inferplane.server.context import ServerContext
from inferplane.server.errors import ApiError
from inferplane.server.handling import answer_headers, ask
from inferplane.server.model_facts import WeightFacts, weight_facts
from inferplane.server.routing import Endpoint, ScopedRoute
from inferplane.server.schema.ollama import show_structure
from inferplane.server.schema.report import Report
from inferplane.server.served_model import ServedModel

__all__ = ["routes"]

_FOR_EVER = "9999-12-31T23:59:59Z"
"""Until when the model stays loaded."""
_SPOKEN = {"repetition_penalty": "repeat_penalty"}


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is told of the served model."""

    model: ServedModel
    weights: WeightFacts
    format: str
    modified: str

    def details(self) -> dict[str, Any]:
        family = self.model.config.model_type
        return {
            "parent_model": "",
            "format": self.format,
            "family": family,
            "families": [family],
            "parameter_size": self.weights.spoken_parameters,
            "quantization_level": self.weights.quantization,
        }


async def _facts(context: ServerContext) -> _Facts:
    """Read from the files' headers."""
    model = await context.model()
    path = Path(context.settings.launch.config.model)

    def read() -> _Facts:
        checkpoint = open_checkpoint(path)
        changed = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        weights = weight_facts(checkpoint, model.config)
        modified = changed.isoformat(timespec="seconds").replace("+00:00", "Z")
        return _Facts(model, weights, checkpoint.format, modified)

    return await asyncio.to_thread(read)


def routes(context: ServerContext) -> list[ScopedRoute]:
    """All of them; the facts are read once."""
    known: list[_Facts] = []

    async def facts() -> _Facts:
        if not known:
            known.append(await _facts(context))
        return known[0]

    async def tags(request: Request) -> Response:
        return _json({"models": [_row(name, await facts()) for name in _names(context)]})

    async def running(request: Request) -> Response:
        return _json({"models": [_running(context, await facts())] if _ready(context) else []})

    async def show(request: Request) -> Response:
        asked = await ask(context, show_structure(), request, _check_show)
        context.card.resolve(asked.found.get("model", asked.found.get("name")))
        body = encode(_shown(context, await facts()))
        headers = answer_headers(context, asked)
        return Response(body, media_type="application/json", headers=headers)

    async def version(request: Request) -> Response:
        return _json({"version": metadata.version("inferplane")})

    return [
        _route("/api/tags", "GET", tags),
        _route("/api/ps", "GET", running),
        _route("/api/version", "GET", version),
        _route("/api/show", "POST", show),
        ScopedRoute(
            "/api/{verb}",
            _not_here,
            methods=["POST", "DELETE"],
            scope="infer",
            dialect="ollama",
        ),
    ]


def _route(path: str, method: str, endpoint: Endpoint) -> ScopedRoute:
    return ScopedRoute(path, endpoint, methods=[method], scope="infer", dialect="ollama")


async def _not_here(request: Request) -> Response:
    raise ApiError.of(
        "route_not_found",
        "models are neither fetched nor changed over HTTP",
        hint="inferplane serve MODEL fetches a model and serves it",
    )


def _json(body: Mapping[str, object]) -> Response:
    return Response(encode(body), media_type="application/json")


def _names(context: ServerContext) -> list[str]:
    """Served names as Ollama writes them, with a tag."""
    return [name if ":" in name else f"{name}:latest" for name in context.card.names]


def _row(name: str, facts: _Facts) -> dict[str, object]:
    return {
        "name": name,
        "model": name,
        "modified_at": facts.modified,
        "size": facts.weights.bytes,
        "digest": facts.weights.digest,
        "details": facts.details(),
    }


def _ready(context: ServerContext) -> bool:
    return context.engine.info is not None and context.engine.status.phase == "ready"


def _running(context: ServerContext, facts: _Facts) -> dict[str, object]:
    row = _row(_names(context)[0], facts)
    del row["modified_at"]
    info = context.engine.info
    assert info is not None
    return row | {
        "expires_at": _FOR_EVER,
        "size_vram": facts.weights.bytes,
        "context_length": info.max_model_len,
    }


def _check_show(found: Mapping[str, Any], report: Report) -> None:
    if not report.problems and "model" not in found and "name" not in found:
        report.wrong("missing_field", "model", "model is missing")


def _shown(context: ServerContext, facts: _Facts) -> dict[str, object]:
    model, config = facts.model, facts.model.config
    family = config.model_type
    capabilities = ["completion"]
    if model.template is not None:
        capabilities.append("tools")  # told in the system message where the template knows none
    if model.pictures is not None:
        capabilities.append("vision")
    if model.pick.format.think[0]:
        capabilities.append("thinking")
    defaults = (f"{_SPOKEN.get(name, name)} {value:g}" for name, value in model.defaults.items())
    return {
        "modelfile": f"FROM {context.card.name}\n",
        "parameters": "\n".join(defaults),
        "template": "" if model.template is None else model.template.source,
        "details": facts.details(),
        "model_info": {
            "general.architecture": family,
            "general.basename": context.card.name,
            "general.parameter_count": facts.weights.parameters,
            "general.file_type": facts.weights.quantization,
            f"{family}.context_length": config.max_position,
            f"{family}.embedding_length": config.hidden_size,
            f"{family}.block_count": config.num_layers,
            f"{family}.feed_forward_length": config.intermediate_size,
            f"{family}.attention.head_count": config.num_heads,
            f"{family}.attention.head_count_kv": config.num_kv_heads,
            f"{family}.vocab_size": config.vocab_size,
        },
        "capabilities": capabilities,
        "modified_at": facts.modified,
    }
