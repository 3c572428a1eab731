"""One layer's cache as the kernels take it, whether it holds numbers or codes with scales."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from inferplane.execution.quantized_kv import KV_KINDS, QuantizedKV, kv_codes
from inferplane.execution.torch_kv_store import PagedKV

__all__ = ["CODES", "CacheView", "view_cache"]

CODES = tuple(KV_KINDS)
"""KV dtypes that are kept as codes."""


class CacheView(NamedTuple):
    """Tensors that a kernel does not need are those of the cache: any will do."""

    k: Tensor
    """[B,S,K,H], a block contiguous."""
    v: Tensor
    k_scales: Tensor
    """bf16[B,S,K]"""
    v_scales: Tensor
    k_static: Tensor
    """bf16[K]"""
    v_static: Tensor
    constants: dict[str, int]
    """What launches that read are specialised by."""
    statics: dict[str, bool]
    """What launches that write are specialised by as well."""

    @property
    def largest(self) -> int:
        """The largest code, which says what they are; 0 = there are none."""
        return self.constants["LARGEST"]


def view_cache(kv: PagedKV | QuantizedKV) -> CacheView:
    """The view of one layer's handle."""
    if isinstance(kv, PagedKV):
        k, v = kv.k, kv.v
        blocks = {"K_BLOCK": k.stride(0), "V_BLOCK": v.stride(0), "LARGEST": 0}
        return CacheView(k, v, k, v, k, v, blocks, {"K_STATIC": False, "V_STATIC": False})
    keys, values = kv.keys, kv.values
    k, v = keys.codes, values.codes
    largest = int(kv_codes(keys.kind, keys.fp8)[1])
    k_static = k if keys.static is None else keys.static
    v_static = v if values.static is None else values.static
    return CacheView(
        k,
        v,
        keys.scales,
        values.scales,
        k_static,
        v_static,
        {"K_BLOCK": k.stride(0), "V_BLOCK": v.stride(0), "LARGEST": largest},
        {"K_STATIC": keys.static is not None, "V_STATIC": values.static is not None},
    )
