"""FlashAttention 3 over whole prompts, from whichever package offers its forward kernel.

Shah et al. 2024, arXiv 2407.08608. It needs Hopper's instructions.
"""

from __future__ import annotations

from inferplane.interfaces import PromptAttention
from inferplane_triton.gpu.prompts import varlen_attention

__all__ = ["find_prompt_attention"]

_MODULES = ("flash_attn_interface", "fa3_fwd_interface")
"""The project's own name, and a wheel of the forward kernels alone."""
_HEAD_DIMS = (64, 96, 128, 192, 256)


def find_prompt_attention(
    capability: tuple[int, int], head_dim: int, dtype: str
) -> PromptAttention | None:
    """None where the device, the heads or the dtype do not suit, or no package is installed."""
    if capability[0] != 9 or head_dim not in _HEAD_DIMS or dtype != "bfloat16":
        return None
    return varlen_attention(_MODULES)
