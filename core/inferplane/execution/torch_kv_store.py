"""Paged KV in torch tensors for the layouts nhd and hnd; knows nothing of attention.

B blocks, S block size, K KV heads, H head size, Hv value head size, N slots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from inferplane.errors import ConfigError
from inferplane.execution.quantized_kv import KV_KINDS, QuantizedKV, QuantizedRows, row_bytes
from inferplane.interfaces import Allocator, Array, DeviceRuntime, KVPlan, KVStore, LayerKV

__all__ = ["KVHandle", "PagedKV", "TorchKVStore"]

_ALIGNMENT = 64
"""Bytes; every layer's keys and values start on a cache line."""


@runtime_checkable
class KVHandle(Protocol):
    """What a store hands to backends: at least its tokens can be read and written."""

    def write(self, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """Store k[N,K,H] and v[N,K,Hv] at `slots` i32[N] or i64[N]."""
        ...

    def read(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Keys [N,K,H] and values [N,K,Hv] at `slots`."""
        ...


@dataclass(frozen=True, slots=True)
class PagedKV:
    """The handle of one layer; both tensors are contiguous."""

    k: Tensor
    """[B,S,K,H] in layout nhd, [B,K,S,H] in hnd."""
    v: Tensor
    """As `k`, with Hv."""
    layout: str
    block_size: int

    def write(self, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """Store k[N,K,H] and v[N,K,Hv] at `slots` i32[N] or i64[N]."""
        for held, new in ((self.k, k), (self.v, v)):
            if self.layout == "nhd":
                held.flatten(0, 1).index_copy_(0, slots.long(), new.to(held.dtype))
            else:
                held.index_put_(self._places(slots), new.to(held.dtype))

    def read(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Keys [N,K,H] and values [N,K,Hv] at `slots`."""
        if self.layout == "nhd":
            return self.k.flatten(0, 1)[slots.long()], self.v.flatten(0, 1)[slots.long()]
        return self.k[self._places(slots)], self.v[self._places(slots)]

    def _places(self, slots: Tensor) -> tuple[Tensor, ...]:
        heads = torch.arange(self.k.shape[1], device=slots.device)
        block, offset = slots.long() // self.block_size, slots.long() % self.block_size
        return block[:, None], heads, offset[:, None]


class TorchKVStore(KVStore):
    """Keys and values of each layer in tensors of their own, cut from one buffer.

    The i-th layers of all groups share tensors, since a block serves one group at a time.
    """

    def __init__(
        self,
        device: DeviceRuntime,
        allocator: Allocator,
        take: Callable[[int], Tensor] | None = None,
        fp8: str = "e4m3fn",
    ) -> None:
        """`take` yields that many zeroed bytes, u8 (default: torch, on the device).

        `fp8` = the device's flavour (Capabilities.fp8); "none" stores e4m3fn.
        """
        self._device = device
        self._allocator = allocator
        self._take = take or self._zeros
        self._fp8 = fp8
        self._tensors: list[tuple[Tensor, Tensor]] = []
        self._layers: dict[str, KVHandle] = {}
        self._num_blocks = 0

    def bytes_per_block(self, layer: LayerKV, block_size: int) -> int:
        """Keys and values; 8-bit ones with their scales."""
        return sum(_bytes_per_block(layer, block_size))

    def allocate(self, plan: KVPlan) -> None:
        """Take the memory; an earlier plan's is dropped first.

        Raises ConfigError where layers that would share tensors differ in size.
        """
        sites = [_shared_size(layers, plan) for layers in zip_longest(*_layers(plan))]
        parts = [plan.num_blocks * size for pair in sites for size in pair]
        self._layers.clear()
        self._tensors.clear()  # before taking: both may not fit
        self._num_blocks = plan.num_blocks
        if not parts:  # an encoder keeps nothing
            return
        with self._allocator.pool("kv"):
            buffer = self._take(sum(parts))
        pieces = iter(torch.split(buffer, parts))
        self._tensors = list(zip(pieces, pieces, strict=True))
        for group in plan.groups:
            for layer, (k, v) in zip(group.layers, self._tensors, strict=False):
                self._layers[layer.name] = self.handle(layer, k, v, plan.block_size)

    def handle(self, layer: LayerKV, k: Tensor, v: Tensor, block_size: int) -> KVHandle:
        """Give the bytes of one layer, u8 in whole blocks, the shape of its layout.

        A device with a layout of its own overrides this and passes on what it does not know.
        """
        if layer.dtype in KV_KINDS:
            return _quantized(layer, k, v, block_size, self._fp8)
        return PagedKV(
            _shaped(k, layer, layer.head_dim, block_size),
            _shaped(v, layer, layer.head_dim_v, block_size),
            layer.layout,
            block_size,
        )

    def layer(self, name: str) -> KVHandle:
        """The handle of a layer: a PagedKV or, in 8 bits, a QuantizedKV."""
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
        index = self._index(slots)
        k_NKH, v_NKH = (torch.from_numpy(x).to(index.device) for x in (k, v))
        self._layers[layer].write(index, k_NKH, v_NKH)

    def _by_block(self) -> Iterator[Tensor]:
        for pair in self._tensors:
            for tensor in pair:
                yield tensor.view(self._num_blocks, -1)

    def _index(self, ids: Array) -> Tensor:
        return torch.from_numpy(ids).to(self._device.torch_device, torch.int64)

    def _zeros(self, num_bytes: int) -> Tensor:
        return torch.zeros(num_bytes, dtype=torch.uint8, device=self._device.torch_device)


def _layers(plan: KVPlan) -> Iterator[tuple[LayerKV, ...]]:
    return (group.layers for group in plan.groups)


def _bytes_per_block(layer: LayerKV, block_size: int) -> tuple[int, int]:
    if layer.dtype in KV_KINDS:
        rows = block_size * layer.num_kv_heads
        return rows * row_bytes(layer.head_dim), rows * row_bytes(layer.head_dim_v)
    rows = block_size * layer.num_kv_heads * _dtype(layer).itemsize
    return rows * layer.head_dim, rows * layer.head_dim_v


def _shared_size(layers: Iterable[LayerKV | None], plan: KVPlan) -> tuple[int, int]:
    sizes = {layer.name: _bytes_per_block(layer, plan.block_size) for layer in layers if layer}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} {k} + {v} bytes" for name, (k, v) in sizes.items())
        raise ConfigError(
            f"KV groups can share blocks only between layers of one size, but a block takes {told}"
        )
    return next(iter(sizes.values()))


def _shaped(buffer: Tensor, layer: LayerKV, head_dim: int, block_size: int) -> Tensor:
    heads = layer.num_kv_heads
    inner = (block_size, heads) if layer.layout == "nhd" else (heads, block_size)
    return buffer.view(_dtype(layer)).view(-1, *inner, head_dim)


def _quantized(layer: LayerKV, k: Tensor, v: Tensor, block_size: int, fp8: str) -> QuantizedKV:
    if layer.layout != "nhd":
        raise ConfigError(
            f"{layer.name}: a cache in {layer.dtype} is laid out as nhd, not {layer.layout}"
        )
    heads, kind = layer.num_kv_heads, layer.dtype
    keys, values = (block_size, heads, layer.head_dim), (block_size, heads, layer.head_dim_v)
    return QuantizedKV(
        QuantizedRows.over(k, kind, keys, layer.k_largest, fp8),
        QuantizedRows.over(v, kind, values, layer.v_largest, fp8),
    )


def _dtype(layer: LayerKV) -> torch.dtype:
    dtype = getattr(torch, layer.dtype)
    assert isinstance(dtype, torch.dtype)
    return dtype
