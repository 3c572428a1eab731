"""What attention of other packages needs around it: keys and values written, blocks listed."""

from __future__ import annotations

import triton
from torch import Tensor

from inferplane_triton.device.cache import list_pages, write_slots

__all__ = ["list_blocks", "write_tokens"]


def write_tokens(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor) -> None:
    """Store k[T,K,H] and v[T,K,Hv] at `slots` i32[T] of the contiguous caches [B,S,K,H]."""
    k, v = _dense(k), _dense(v)
    k_size, v_size = k.shape[1] * k.shape[2], v.shape[1] * v.shape[2]
    write_slots[(len(k),)](
        k, v, k_cache, v_cache, slots, k.stride(0), v.stride(0), K_SIZE=k_size, V_SIZE=v_size,
        K_BLOCK=int(triton.next_power_of_2(k_size)), V_BLOCK=int(triton.next_power_of_2(v_size)),
        num_warps=4,
    )  # fmt: skip


def list_blocks(tables: Tensor, starts: Tensor, out: Tensor) -> None:
    """Copy starts[s+1] - starts[s] blocks of each row s of i32[S,W] to out[starts[s]:]."""
    list_pages[(len(tables),)](tables, starts, out, tables.stride(0), BLOCK=128, num_warps=1)


def _dense(x: Tensor) -> Tensor:
    """x[T,K,H] with the heads of a token side by side."""
    return x if x.stride(2) == 1 and x.stride(1) == x.shape[2] else x.contiguous()
