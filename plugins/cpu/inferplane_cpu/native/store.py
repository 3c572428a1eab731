"""KV blocks laid out as matrix panels, so that attention is matrix arithmetic without reordering.

B blocks, S block size, K KV heads, H head size, N slots. A block and head holds keys as
[S/16][H/c][16][c] and values as [H/16][S/c][16][c], with c = 2 for bfloat16 and 1 for float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from inferplane.errors import ConfigError
from inferplane.interfaces import Allocator, Array, KVPlan, KVStore, LayerKV
from inferplane_cpu.native.library import Cache, Kind

__all__ = ["LAYOUT", "PanelKV", "PanelKVStore"]

LAYOUT = "panels"
BLOCK_SIZES = (16, 32, 64, 128, 256, 512)
"""Tokens: whole panels, and whole blocks in a chunk of attention."""
_PAIR = {"bfloat16": 2, "float32": 1}


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

    def keys_by_token(self) -> Tensor:
        """A view of the keys as [B, K, S/16, 16, H/c, c]."""
        pair = 2 if self.keys.dtype == torch.bfloat16 else 1
        shape = (-1, self.kv_heads, self.block_size // 16, self.dim // pair, 16, pair)
        return self.keys.view(shape).permute(0, 1, 2, 4, 3, 5)

    def values_by_token(self) -> Tensor:
        """A view of the values as [B, K, S/c, c, Hv/16, 16]."""
        pair = 2 if self.values.dtype == torch.bfloat16 else 1
        shape = (-1, self.kv_heads, self.dim_v // 16, self.block_size // pair, 16, pair)
        return self.values.view(shape).permute(0, 1, 3, 5, 2, 4)


class PanelKVStore(KVStore):
    """Owns one pair of tensors for each layer of the largest group; groups share blocks."""

    def __init__(self, allocator: Allocator) -> None:
        self._allocator = allocator
        self._tensors: list[tuple[Tensor, Tensor]] = []
        self._layers: dict[str, PanelKV] = {}

    def bytes_per_block(self, layer: LayerKV, block_size: int) -> int:
        """Nothing is padded: block and head sizes are multiples of the panel."""
        size = getattr(torch, layer.dtype).itemsize
        return int(size * block_size * layer.num_kv_heads * (layer.head_dim + layer.head_dim_v))

    def allocate(self, plan: KVPlan) -> None:
        """Take zeroed memory. Raises ConfigError for sizes that do not fit panels."""
        self._layers.clear()
        self._tensors.clear()  # before taking: both may not fit
        count = max((len(group.layers) for group in plan.groups), default=0)
        with self._allocator.pool("kv"):
            for number in range(count):
                layers = [g.layers[number] for g in plan.groups if number < len(g.layers)]
                self._place(layers, plan)

    def layer(self, name: str) -> PanelKV:
        """The PanelKV of a layer."""
        return self._layers[name]

    def zero(self, blocks: Array) -> None:
        """Once for each pair of tensors."""
        index = torch.from_numpy(blocks).long()
        for pair in self._tensors:
            for tensor in pair:
                tensor.index_fill_(0, index, 0)

    def copy(self, pairs: Array) -> None:
        """All sources are read before any target is written."""
        source, target = torch.from_numpy(pairs).long().unbind(1)
        for pair in self._tensors:
            for tensor in pair:
                tensor.index_copy_(0, target, tensor.index_select(0, source))

    def read_tokens(self, layer: str, slots: Array) -> tuple[Array, Array]:
        """For the kit."""
        kv = self._layers[layer]
        at = torch.from_numpy(slots).long()
        block, token = at // kv.block_size, at % kv.block_size
        keys = kv.keys_by_token()[block, :, token // 16, token % 16].flatten(2)
        pair = 2 if kv.values.dtype == torch.bfloat16 else 1
        values = kv.values_by_token()[block, :, token // pair, token % pair].flatten(2)
        return keys.float().numpy(), values.float().numpy()

    def write_tokens(self, layer: str, slots: Array, k: Array, v: Array) -> None:
        """For the kit."""
        kv = self._layers[layer]
        at = torch.from_numpy(slots).long()
        block, token = at // kv.block_size, at % kv.block_size
        heads = torch.arange(kv.kv_heads)[None]
        dtype = kv.keys.dtype
        keys = kv.keys_by_token()
        new_k = torch.unflatten(torch.from_numpy(k).to(dtype), 2, keys.shape[-2:])
        keys[block[:, None], heads, token[:, None] // 16, token[:, None] % 16] = new_k
        values = kv.values_by_token()
        pair = 2 if dtype == torch.bfloat16 else 1
        new_v = torch.unflatten(torch.from_numpy(v).to(dtype), 2, values.shape[-2:])
        values[block[:, None], heads, token[:, None] // pair, token[:, None] % pair] = new_v

    def _place(self, layers: list[LayerKV], plan: KVPlan) -> None:
        shapes = {(x.num_kv_heads, x.head_dim, x.head_dim_v, x.dtype) for x in layers}
        if len(shapes) > 1:
            raise ConfigError(
                "KV groups can share blocks only between layers of one size, got "
                + ", ".join(f"{x.name}: {x.num_kv_heads}x{x.head_dim} {x.dtype}" for x in layers)
            )
        first = layers[0]
        if first.dtype not in _PAIR or first.head_dim % 16 or first.head_dim_v % 16:
            raise ConfigError(
                f"{first.name}: the panel layout stores float32 and bfloat16 heads of a multiple "
                f"of 16, not {first.dtype} of {first.head_dim}"
            )
        if plan.block_size not in BLOCK_SIZES:
            raise ConfigError(f"block_size {plan.block_size}: panels need one of {BLOCK_SIZES}")
        dtype, rows = getattr(torch, first.dtype), (plan.num_blocks, first.num_kv_heads)
        keys = torch.zeros(*rows, plan.block_size * first.head_dim, dtype=dtype)
        values = torch.zeros(*rows, plan.block_size * first.head_dim_v, dtype=dtype)
        self._tensors.append((keys, values))
        for layer in layers:
            self._layers[layer.name] = PanelKV(
                keys, values, plan.block_size, first.num_kv_heads, first.head_dim, first.head_dim_v
            )
