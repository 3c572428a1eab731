"""KV blocks laid out as matrix panels, so that attention is matrix arithmetic without reordering.

B blocks, S block size, K KV heads, H head size, N slots. A block and head holds keys as
[S/16][H/c][16][c] and values as [H/16][S/c][16][c], with c = 1 for float32 and 2 otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from inferplane_cpu.native.library import Cache, Kind

__all__ = ["PAIR", "PanelKV"]

PAIR = {"bfloat16": 2, "float32": 1}
"""Numbers of a panel that lie beside each other, by dtype."""


@dataclass(frozen=True, slots=True, eq=False)
class PanelKV:
    """The handle of one layer."""

    keys: Tensor
    """[B, K, S*H]"""
    values: Tensor
    """[B, K, S*Hv]"""
    block_size: int
    kv_heads: int
    dim: int
    dim_v: int

    def structure(self) -> Cache:
        """What the kernels read; valid while the tensors live."""
        kind = Kind.F32 if self.keys.dtype == torch.float32 else Kind.BF16
        return Cache(
            int(kind),
            self.keys.data_ptr(),
            self.values.data_ptr(),
            self.block_size,
            self.kv_heads,
            self.dim,
            self.dim_v,
        )

    def write(self, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """Store k[N,K,H] and v[N,K,Hv] at `slots` i32[N] or i64[N]."""
        for held, panel, new in (
            (self._keys_by_token(), 16, k),
            (self._values_by_token(), self._pair, v),
        ):
            rows = torch.unflatten(new.to(held.dtype), 2, held.shape[-2:])
            held[self._places(slots, panel)] = rows

    def read(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Keys [N,K,H] and values [N,K,Hv] at `slots`."""
        keys = self._keys_by_token()[self._places(slots, 16)]
        values = self._values_by_token()[self._places(slots, self._pair)]
        return keys.flatten(2), values.flatten(2)

    @property
    def _pair(self) -> int:
        return 1 if self.keys.dtype == torch.float32 else 2

    def _places(self, slots: Tensor, panel: int) -> tuple[Tensor, ...]:
        """Index of (block, head, panel, row of the panel) for tokens in panels of that many."""
        slots = slots.long()
        block, token = slots // self.block_size, slots % self.block_size
        heads = torch.arange(self.kv_heads)[None]
        return block[:, None], heads, token[:, None] // panel, token[:, None] % panel

    def _keys_by_token(self) -> Tensor:
        """The keys as [B, K, S/16, 16, H/c, c]."""
        shape = (-1, self.kv_heads, self.block_size // 16, self.dim // self._pair, 16, self._pair)
        return self.keys.view(shape).permute(0, 1, 2, 4, 3, 5)

    def _values_by_token(self) -> Tensor:
        """The values as [B, K, S/c, c, Hv/16, 16]."""
        panels, rows = self.dim_v // 16, self.block_size // self._pair
        shape = (-1, self.kv_heads, panels, rows, 16, self._pair)
        return self.values.view(shape).permute(0, 1, 3, 5, 2, 4)
