"""Names of spans, attributes and instruments as OpenTelemetry's conventions have them today.

They still change; they stand nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = [
    "CACHED_TOKENS",
    "DECODE",
    "DURATION",
    "ERROR_TYPE",
    "FINISH_REASONS",
    "FIRST_TOKEN",
    "HTTP_METHOD",
    "HTTP_ROUTE",
    "HTTP_STATUS",
    "INPUT_TOKENS",
    "MODEL",
    "OPERATION",
    "OPERATIONS",
    "OUTPUT_TOKENS",
    "PER_TOKEN",
    "PREFILL",
    "PROVIDER",
    "QUEUE",
    "REQUEST_ID",
    "SERVED_MODEL",
]

QUEUE = "inferplane.queue"
PREFILL = "inferplane.prefill"
DECODE = "inferplane.decode"
HTTP_METHOD = "http.request.method"
HTTP_ROUTE = "http.route"
HTTP_STATUS = "http.response.status_code"
ERROR_TYPE = "error.type"
OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
MODEL = "gen_ai.request.model"
SERVED_MODEL = "gen_ai.response.model"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
FINISH_REASONS = "gen_ai.response.finish_reasons"
REQUEST_ID = "inferplane.request_id"
DURATION = "gen_ai.server.request.duration"
FIRST_TOKEN = "gen_ai.server.time_to_first_token"
PER_TOKEN = "gen_ai.server.time_per_output_token"
OPERATIONS: Mapping[str, str] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "text_completion",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/api/chat": "chat",
    "/api/generate": "text_completion",
    "/v1/embeddings": "embeddings",
    "/api/embed": "embeddings",
}
"""Route -> what it does; other routes have an HTTP span alone."""
