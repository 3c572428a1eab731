"""KV as flat slots: keys and values of a layer in tensors of their own, block after block.

N slots, K KV heads, H head size, Hv value head size.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

import torch
from torch import Tensor

from inferplane.errors import ConfigError
from inferplane.execution.quantized_kv import KV_KINDS, QuantizedKV, QuantizedRows, row_bytes
from inferplane.execution.torch_kv_store import PagedKV
from inferplane.interfaces import Allocator, Array, DeviceRuntime, KVPlan, KVStore, LayerKV

__all__ = ["FlatKVStore"]


class FlatKVStore(KVStore):
    """Compiled programs alias whole tensors here, so nothing is a view of one large buffer.

    A layer's keys are [N,K,H] and its values [N,K,Hv], slot = block * block_size + offset, which
    backends read by blocks as layout nhd; in 8 bits codes [N,K,H] and scales [N,K] each. The i-th
    layers of all groups share their tensors, since a block serves one group at a time.
    """

    def __init__(self, device: DeviceRuntime, allocator: Allocator, fp8: str = "e4m3fn") -> None:
        """`fp8`: what the device's codes of that kind mean."""
        self._fp8 = fp8
        self._device = torch.device(device.torch_device)
        self._allocator = allocator
        self._tensors: list[Tensor] = []
        self._layers: dict[str, PagedKV | QuantizedKV] = {}
        self._block_size = 0

    def bytes_per_block(self, layer: LayerKV, block_size: int) -> int:
        """Keys and values in the layer's dtype; a name that is no dtype raises ConfigError."""
        if layer.dtype in KV_KINDS:
            rows = row_bytes(layer.head_dim) + row_bytes(layer.head_dim_v)
            return block_size * layer.num_kv_heads * rows
        per_token = layer.num_kv_heads * (layer.head_dim + layer.head_dim_v)
        return block_size * per_token * _dtype(layer).itemsize

    def allocate(self, plan: KVPlan) -> None:
        """Take the memory; an earlier plan's is dropped first.

        Raises ConfigError where layers that would share tensors differ.
        """
        self._layers.clear()
        self._tensors.clear()  # before taking: both may not fit
        self._block_size = plan.block_size
        for sharing in zip_longest(*(group.layers for group in plan.groups)):
            layers = [layer for layer in sharing if layer is not None]
            taken = self._take(layers, plan)
            self._tensors += taken
            by_block = [torch.unflatten(x, 0, (plan.num_blocks, plan.block_size)) for x in taken]
            for layer in layers:
                self._layers[layer.name] = self._handle(layer, by_block, plan.block_size)

    def layer(self, name: str) -> PagedKV | QuantizedKV:
        """The handle of a layer."""
        return self._layers[name]

    def zero(self, blocks: Array) -> None:
        """Once for each layer of the largest group."""
        index = self._index(blocks)
        for tensor in self._by_block():
            tensor.index_fill_(0, index, 0)

    def copy(self, pairs: Array) -> None:
        """As `zero`; all sources are read before any target is written."""
        sources, targets = self._index(pairs).unbind(1)
        for tensor in self._by_block():
            tensor.index_copy_(0, targets, tensor.index_select(0, sources))

    def read_tokens(self, layer: str, slots: Array) -> tuple[Array, Array]:
        """For the kit."""
        k, v = self._layers[layer].read(self._index(slots))
        return k.float().cpu().numpy(), v.float().cpu().numpy()

    def write_tokens(self, layer: str, slots: Array, k: Array, v: Array) -> None:
        """For the kit."""
        keys, values = (torch.from_numpy(x).to(self._device) for x in (k, v))
        self._layers[layer].write(self._index(slots), keys, values)

    def _handle(
        self, layer: LayerKV, by_block: list[Tensor], block_size: int
    ) -> PagedKV | QuantizedKV:
        if layer.dtype not in KV_KINDS:
            k, v = by_block
            return PagedKV(k, v, layer.layout, block_size)
        k, v, k_scales, v_scales = by_block
        return QuantizedKV(
            QuantizedRows.beside(k, k_scales, layer.dtype, layer.k_largest, self._fp8),
            QuantizedRows.beside(v, v_scales, layer.dtype, layer.v_largest, self._fp8),
        )

    def _take(self, layers: list[LayerKV], plan: KVPlan) -> tuple[Tensor, ...]:
        """Keys and values; in 8 bits the scales of both as well."""
        kinds = {(x.num_kv_heads, x.head_dim, x.head_dim_v, x.dtype) for x in layers}
        if len(kinds) > 1:
            told = ", ".join(f"{x.name} {x.num_kv_heads}x{x.head_dim} {x.dtype}" for x in layers)
            raise ConfigError(f"KV groups share blocks only between layers of one shape: {told}")
        heads, head_dim, head_dim_v, _ = kinds.pop()
        slots, quantized = plan.num_blocks * plan.block_size, layers[0].dtype in KV_KINDS
        dtype = torch.int8 if quantized else _dtype(layers[0])
        shapes: list[tuple[tuple[int, ...], torch.dtype]] = [
            ((slots, heads, head_dim), dtype),
            ((slots, heads, head_dim_v), dtype),
        ]
        if quantized:
            shapes += [((slots, heads), torch.bfloat16)] * 2
        with self._allocator.pool("kv"):
            return tuple(torch.zeros(s, dtype=d, device=self._device) for s, d in shapes)

    def _by_block(self) -> Iterator[Tensor]:
        for tensor in self._tensors:
            yield torch.unflatten(tensor, 0, (-1, self._block_size))

    def _index(self, ids: Array) -> Tensor:
        return torch.from_numpy(ids).to(self._device, torch.int64)


def _dtype(layer: LayerKV) -> torch.dtype:
    dtype = getattr(torch, layer.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise ConfigError(f"{layer.name}: KV dtype {layer.dtype!r} is none that Gaudi stores")
    return dtype
