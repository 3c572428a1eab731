"""One Intel GPU: every GPU's runtime under torch's name "xpu"."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import ClassVar

import torch

from inferplane_triton.gpu.runtime import GpuRuntime

__all__ = ["XpuRuntime"]


class XpuRuntime(GpuRuntime):
    """Runs without gradients, but not in inference mode."""

    kind: ClassVar[str] = "xpu"

    def guard(self) -> AbstractContextManager[None]:
        """No gradients: operators of this build are known to fail on inference tensors."""
        return torch.no_grad()
