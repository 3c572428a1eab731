"""AITER's attention over whole prompts; the package compiles its kernels at first use."""

from __future__ import annotations

from inferplane.interfaces import PromptAttention
from inferplane_triton.gpu.prompts import varlen_attention

__all__ = ["find_prompt_attention"]

_ARCHS = ("gfx942", "gfx950")
_HEAD_DIMS = (64, 128, 256)
_DTYPES = ("bfloat16", "float16")


def find_prompt_attention(arch: str, head_dim: int, dtype: str) -> PromptAttention | None:
    """None where the generation, the heads or the dtype do not suit, or it is not installed."""
    if arch not in _ARCHS or head_dim not in _HEAD_DIMS or dtype not in _DTYPES:
        return None
    return varlen_attention(("aiter",))
