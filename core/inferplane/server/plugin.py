"""The built-in endpoints, offered through the same hook as a stranger's."""

from __future__ import annotations

from inferplane.hookspecs import Register, hookimpl

__all__ = ["register_routes"]


@hookimpl
def register_routes(register: Register) -> None:
    """One line an endpoint; each target is a function (ServerContext) -> list[ScopedRoute]."""
    room = "inferplane.server.routes"
    register("probes", f"{room}.probes:routes")
    register("models", f"{room}.models:routes")
    register("chat_completions", f"{room}.chat_completions:routes")
    register("completions", f"{room}.completions:routes")
    register("messages", f"{room}.messages:routes")
    register("ollama", f"{room}.ollama:routes")
    register("ollama_embed", f"{room}.ollama_embed:routes")
    register("ollama_models", f"{room}.ollama_models:routes")
    register("embeddings", f"{room}.embeddings:routes")
    register("responses", f"{room}.responses:routes")
    register("files", f"{room}.files:routes")
    register("batches", f"{room}.batches:routes")
    register("score", f"{room}.score:routes")
    register("classify", f"{room}.classify:routes")
    register("transcriptions", f"{room}.transcriptions:routes")
    register("tokenize", f"{room}.tokenize:routes")
    register("metrics", f"{room}.metrics:routes")
    register("version", f"{room}.version:routes")
    register("openapi", f"{room}.openapi:routes")
