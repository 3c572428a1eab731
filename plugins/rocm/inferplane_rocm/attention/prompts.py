"""AITER's attention over whole prompts; the package compiles its kernels at first use."""

from __future__ import annotations

from inferplane.interfaces import PromptAttention
from inferplane_triton.gpu.prompts import varlen_attention

__all__ = ["find_prompt_attention", "prompt_problem"]

_ARCHS = ("gfx942", "gfx950")
_HEAD_DIMS = (64, 128, 256)
_DTYPES = ("bfloat16", "float16")


def prompt_problem(arch: str, head_dim: int, dtype: str) -> str:
    """Why AITER does not serve such prompts, "" = it would, if it is installed."""
    if arch not in _ARCHS:
        return f"AITER has kernels for {' and '.join(_ARCHS)}, this is {arch}"
    if head_dim not in _HEAD_DIMS:
        return f"AITER has kernels for heads of {', '.join(map(str, _HEAD_DIMS))}, not {head_dim}"
    if dtype not in _DTYPES:
        return f"AITER has kernels for {' and '.join(_DTYPES)}, not {dtype}"
    return ""


def find_prompt_attention(arch: str, head_dim: int, dtype: str) -> PromptAttention | None:
    """None where `prompt_problem` has a reason, or the package is not installed."""
    return None if prompt_problem(arch, head_dim, dtype) else varlen_attention(("aiter",))
