"""One NVIDIA GPU: every GPU's runtime, and the vendor's attention for whole prompts."""

from __future__ import annotations

import torch

from inferplane.interfaces import PromptAttention
from inferplane_cuda.attention.prompts import find_prompt_attention
from inferplane_triton.gpu.runtime import GpuRuntime

__all__ = ["CudaRuntime"]


class CudaRuntime(GpuRuntime):
    """Adds FlashAttention 3."""

    def prompt_attention(self, head_dim: int, dtype: str) -> PromptAttention | None:
        """FlashAttention 3 where it is installed and the device is Hopper."""
        capability = torch.cuda.get_device_capability(self.torch_device)
        return find_prompt_attention(capability, head_dim, dtype)
