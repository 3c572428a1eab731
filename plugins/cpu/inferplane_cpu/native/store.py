"""The core's KV store with one more layout: panels, which the native kernels read."""

from __future__ import annotations

import torch
from torch import Tensor

from inferplane.errors import ConfigError
from inferplane.execution.quantized_kv import KV_KINDS
from inferplane.execution.torch_kv_store import KVHandle, TorchKVStore
from inferplane.interfaces import LayerKV
from inferplane_cpu.native.coded import CodedPanelKV
from inferplane_cpu.native.panels import PAIR, PanelKV

__all__ = ["BLOCK_SIZES", "LAYOUT", "PanelKVStore"]

LAYOUT = "panels"
BLOCK_SIZES = (16, 32, 64, 128, 256, 512)
"""Tokens: whole panels, and whole blocks in a chunk of attention."""


class PanelKVStore(TorchKVStore):
    """The core's store with one more layout."""

    def handle(self, layer: LayerKV, k: Tensor, v: Tensor, block_size: int) -> KVHandle:
        """A PanelKV for layers in panels. Raises ConfigError for sizes that do not fit them."""
        if layer.layout != LAYOUT:
            return super().handle(layer, k, v, block_size)
        known = layer.dtype in PAIR or layer.dtype in KV_KINDS
        if not known or layer.head_dim % 16 or layer.head_dim_v % 16:
            raise ConfigError(
                f"{layer.name}: panels store float32, bfloat16, int8 and fp8 heads of a multiple "
                f"of 16, not {layer.dtype} of {layer.head_dim}"
            )
        if block_size not in BLOCK_SIZES:
            raise ConfigError(f"block_size {block_size}: panels need one of {BLOCK_SIZES}")
        if layer.dtype in KV_KINDS:
            return CodedPanelKV.over(layer, k, v, block_size)
        dtype, heads = getattr(torch, layer.dtype), layer.num_kv_heads
        return PanelKV(
            k.view(dtype).view(-1, heads, block_size * layer.head_dim),
            v.view(dtype).view(-1, heads, block_size * layer.head_dim_v),
            block_size,
            heads,
            layer.head_dim,
            layer.head_dim_v,
        )
