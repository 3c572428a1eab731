"""Inferplane: one small core for LLM inference, any accelerator by plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inferplane.hookspecs import Register, hookimpl
    from inferplane.llm import LLM, Completion, Embedding
    from inferplane.sampling_params import SamplingParams

__version__ = "0.1.0"
__all__ = [
    "LLM",
    "Completion",
    "Embedding",
    "Register",
    "SamplingParams",
    "__version__",
    "hookimpl",
]

_HOMES = {
    "LLM": "inferplane.llm",
    "Completion": "inferplane.llm",
    "Embedding": "inferplane.llm",
    "Register": "inferplane.hookspecs",
    "SamplingParams": "inferplane.sampling_params",
    "hookimpl": "inferplane.hookspecs",
}


def __getattr__(name: str) -> object:
    """Import public names on first use, so that `inferplane --version` costs nothing (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'inferplane' has no attribute {name!r}")
    from importlib import import_module  # paid only by those who use a lazy name

    return getattr(import_module(_HOMES[name]), name)
