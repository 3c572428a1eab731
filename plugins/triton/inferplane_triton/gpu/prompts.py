"""Attention over whole prompts from packages that share FlashAttention's calling convention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from torch import Tensor

from inferplane.interfaces import PromptAttention

__all__ = ["varlen_attention"]


def varlen_attention(modules: Sequence[str]) -> PromptAttention | None:
    """`flash_attn_varlen_func` of the first of these modules that is installed; None = of none."""
    for name in modules:
        if find_spec(name) is not None:
            return _wrap(import_module(name).flash_attn_varlen_func)
    return None


def _wrap(varlen: Callable[..., Any]) -> PromptAttention:
    def attend(
        q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int, scale: float
    ) -> Tensor:
        found = varlen(q, k, v, starts, starts, longest, longest, softmax_scale=scale, causal=True)
        out: Tensor = found[0] if isinstance(found, tuple) else found
        return out

    return attend
