"""The OpenAPI document, made from the routes and the tables that check their bodies."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from inferplane.server.batches.lines import ENDPOINTS
from inferplane.server.errors import CODES
from inferplane.server.limits import Limits
from inferplane.server.routing import ScopedRoute
from inferplane.server.schema import ollama, pooling
from inferplane.server.schema.batches import batch_structure
from inferplane.server.schema.chat import chat_structure
from inferplane.server.schema.completions import completion_structure
from inferplane.server.schema.fields import Structure
from inferplane.server.schema.messages import count_tokens_structure, messages_structure
from inferplane.server.schema.responses import (
    compacted_structure,
    counted_structure,
    responses_structure,
)
from inferplane.server.schema.tokenize import detokenize_structure, tokenize_structure
from inferplane.server.schema.transcriptions import (
    transcription_structure,
    translation_structure,
)

__all__ = ["openapi_document"]

_BODIES: Mapping[str, Callable[[Limits], Structure]] = {
    "/v1/chat/completions": chat_structure,
    "/v1/completions": completion_structure,
    "/v1/responses": responses_structure,
    "/v1/responses/input_tokens": counted_structure,
    "/v1/responses/compact": compacted_structure,
    "/v1/messages": messages_structure,
    "/v1/messages/count_tokens": count_tokens_structure,
    "/v1/batches": lambda _: batch_structure(ENDPOINTS),
    "/v1/embeddings": pooling.embedding_structure,
    "/api/chat": ollama.chat_structure,
    "/api/generate": ollama.generate_structure,
    "/api/embed": ollama.embed_structure,
    "/api/show": lambda _: ollama.show_structure(),
    **dict.fromkeys(("/pooling", "/v1/pooling"), pooling.pooling_structure),
    **dict.fromkeys(("/score", "/v1/score"), pooling.score_structure),
    **dict.fromkeys(("/classify", "/v1/classify"), pooling.classify_structure),
    **dict.fromkeys(("/rerank", "/v1/rerank", "/v2/rerank"), pooling.rerank_structure),
    **dict.fromkeys(("/tokenize", "/v1/tokenize"), tokenize_structure),
    **dict.fromkeys(("/detokenize", "/v1/detokenize"), lambda _: detokenize_structure()),
}
"""Path -> the table of its body."""
_PAGE = ("limit", "after", "order")
_QUERIES: Mapping[str, Sequence[str]] = {
    "GET /v1/files": (*_PAGE, "purpose"),
    "GET /v1/batches": _PAGE,
    "GET /v1/responses/{id}/input_items": _PAGE,
    "GET /v1/responses/{id}": ("stream", "starting_after", "include_obfuscation"),
}
_FORM = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"enum": ["batch"]},
    },
}
_SPOKEN: Mapping[str, Callable[[], Structure]] = {
    "/v1/audio/transcriptions": transcription_structure,
    "/v1/audio/translations": translation_structure,
}
"""Path -> the table of a form with a recording."""
_STREAMS = re.compile(r"/(completions|messages|responses|transcriptions)$|/v1/responses/\{id\}$")
_LINES = ("/api/chat", "/api/generate")


def openapi_document(routes: Sequence[ScopedRoute], limits: Limits, version: str) -> dict[str, Any]:
    """Every route with its parameters, body and all statuses it can answer."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = re.sub(r":path\}", "}", route.path)
        for method in sorted(set(route.methods or ()) - {"HEAD"}):
            told = _operation(route, path, method, limits)
            paths.setdefault(path, {})[method.lower()] = told
    return {
        "openapi": "3.1.0",
        "info": {"title": "Inferplane", "version": version},
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": _error_schema()},
        },
    }


def _operation(route: ScopedRoute, path: str, method: str, limits: Limits) -> dict[str, Any]:
    made: dict[str, Any] = {
        "operationId": f"{method.lower()}{re.sub(r'[^a-zA-Z0-9]+', '_', path).rstrip('_')}",
        "x-inferplane-scope": route.scope,
        "responses": _responses(route, path, method),
    }
    if route.scope != "open":
        made["security"] = [{"key": []}]
    named = [_parameter(name, "path") for name in re.findall(r"\{(\w+)\}", path)]
    asked = _QUERIES.get(f"{method} {path}", ())
    if parameters := named + [_parameter(name, "query") for name in asked]:
        made["parameters"] = parameters
    if path in _BODIES and method == "POST":
        schema = _BODIES[path](limits).schema()
        made["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    elif method == "POST" and (path == "/v1/files" or path in _SPOKEN):
        schema = _FORM if path == "/v1/files" else _spoken(_SPOKEN[path]())
        form: dict[str, Any] = {"multipart/form-data": {"schema": schema}}
        made["requestBody"] = {"required": True, "content": form}
    return made


def _spoken(fields: Structure) -> dict[str, Any]:
    """The form of a recording and its fields."""
    schema = fields.schema()
    file = {"type": "string", "format": "binary", "description": "The recording."}
    schema["properties"] = {"file": file, **schema["properties"]}
    schema["required"] = ["file"]
    return schema


def _parameter(name: str, place: str) -> dict[str, Any]:
    kinds: Mapping[str, dict[str, Any]] = {
        "limit": {"type": "integer", "minimum": 1},
        "starting_after": {"type": "integer", "minimum": 0},
        "order": {"enum": ["asc", "desc"]},
        "stream": {"enum": ["true", "false"]},
        "include_obfuscation": {"enum": ["true", "false"]},
        "purpose": {"enum": ["batch", "batch_output"]},
    }
    kind = kinds.get(name, {"type": "string"})
    return {"name": name, "in": place, "required": place == "path", "schema": kind}


def _responses(route: ScopedRoute, path: str, method: str) -> dict[str, Any]:
    found = {"200": _good(path)}
    failed = {"description": "An error.", "content": {"application/json": {}}}
    if route.dialect in ("openai", "plain") and route.scope != "open":
        failed["content"] = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return found | {f"{status}": failed for status in sorted(_statuses(route, method))}


def _good(path: str) -> dict[str, Any]:
    kinds = ["application/json"]
    if path in _SPOKEN:
        kinds += ["text/plain", "text/vtt", "application/x-subrip"]
    if path in ("/metrics", "/"):
        kinds = ["text/plain"]
    elif path.endswith("/content"):
        kinds = ["application/octet-stream"]
    elif path in _LINES:
        kinds.append("application/x-ndjson")
    elif _STREAMS.search(path):
        kinds.append("text/event-stream")
    return {"description": "The answer.", "content": {kind: {} for kind in kinds}}


def _statuses(route: ScopedRoute, method: str) -> set[int]:
    """What errors a route can give: what is wrong with any request, and what only some can meet."""
    every = {info.status for info in CODES.values()}
    if route.scope == "open":
        return {400, 403, 405, 408, 414, 431, 503}
    if method == "POST":
        return every - {405}
    return every - {405, 409, 413, 415, 429, 504}


def _error_schema() -> dict[str, Any]:
    text = {"type": "string"}
    members = ("message", "type", "code", "hint", "doc_url", "request_id")
    inner = {
        "type": "object",
        "required": [*members, "param"],
        "properties": {
            **dict.fromkeys(members, text),
            "code": {"enum": sorted(CODES)},
            "param": {"type": ["string", "null"]},
        },
    }
    return {"type": "object", "required": ["error"], "properties": {"error": inner}}
