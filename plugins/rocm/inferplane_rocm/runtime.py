"""One AMD GPU: every GPU's runtime, and AITER's attention for prompts where it is asked for."""

from __future__ import annotations

import logging

from inferplane.interfaces import PromptAttention, WorkerContext
from inferplane_rocm.archs import fp8_flavour
from inferplane_rocm.attention.prompts import find_prompt_attention, prompt_problem
from inferplane_triton.gpu.runtime import GpuRuntime

__all__ = ["RocmRuntime"]

_logger = logging.getLogger(__name__)


class RocmRuntime(GpuRuntime):
    """Knows its generation, which kernels ask for."""

    def __init__(self, context: WorkerContext) -> None:
        super().__init__(context)
        properties = self._api.get_device_properties(self._device)
        self.arch = str(properties.gcnArchName).partition(":")[0]
        """"gfx942", without the feature flags behind the colon."""
        self._asks_aiter = context.config.options.get("prompts") == "aiter"

    @property
    def reads_fnuz(self) -> bool:
        """Whether fp8 operands of matrix instructions are e4m3fnuz."""
        return fp8_flavour(self.arch) == "e4m3fnuz"

    def prompt_attention(self, head_dim: int, dtype: str) -> PromptAttention | None:
        """AITER's, if the user chose it and it fits; else the log says why it does not."""
        if not self._asks_aiter:
            return None
        if problem := prompt_problem(self.arch, head_dim, dtype):
            _logger.warning("option prompts=aiter has no effect: %s", problem)
        return find_prompt_attention(self.arch, head_dim, dtype)
