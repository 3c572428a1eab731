"""Paged KV as TPU kernels want it: keys and values of a head side by side, heads padded to lanes.

B blocks, S block size, K KV heads, H head size, P head size padded, N slots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from inferplane.errors import ConfigError
from inferplane.interfaces import Allocator, Array, KVPlan, KVStore, LayerKV
from inferplane_tpu.runtime import TpuRuntime

__all__ = ["LANES", "LAYOUT", "PageStore", "Pages", "joined", "padded_size"]

LAYOUT = "pages"
LANES = 128
"""Width of a vector register: head sizes are padded to a multiple of it."""
_RUN = 8
"""Blocks zeroed or copied at once."""


@dataclass(frozen=True, slots=True)
class Pages:
    """The handle of one layer."""

    content: Tensor
    """[B,S,2K,P]: row 2k holds the keys, row 2k+1 the values of head k; beyond H lie zeros."""
    head_dim: int
    donate: Callable[[Tensor], Tensor]
    """To be called on `content` in every program that writes to it."""

    def write(self, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """Store k[N,K,H] and v[N,K,H] at `slots` i32[N]."""
        self.donate(self.content)
        rows = joined(k, v, self.content.shape[-1]).to(self.content.dtype)
        self.content.flatten(0, 1).index_copy_(0, slots.long(), rows)

    def read(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [N,K,H] at `slots` i32[N]."""
        rows = self.content.flatten(0, 1).index_select(0, slots)
        pairs = rows.view(len(rows), -1, 2, rows.shape[-1])[..., : self.head_dim]
        return pairs[:, :, 0], pairs[:, :, 1]


class PageStore(KVStore):
    """A tensor for the i-th layers of all groups, since a block serves one group at a time."""

    def __init__(self, device: TpuRuntime, allocator: Allocator) -> None:
        self._device = device
        self._allocator = allocator
        self._contents: list[Tensor] = []
        self._layers: dict[str, Pages] = {}

    def bytes_per_block(self, layer: LayerKV, block_size: int) -> int:
        """Padding of heads included."""
        return block_size * 2 * layer.num_kv_heads * padded_size(layer) * _dtype(layer).itemsize

    def allocate(self, plan: KVPlan) -> None:
        """Take the memory; an earlier plan's is dropped first.

        Raises ConfigError where layers that would share a tensor differ in shape.
        """
        self._layers.clear()
        self._contents.clear()  # before taking: both may not fit
        for sharing in zip_longest(*(group.layers for group in plan.groups)):
            layers = [layer for layer in sharing if layer is not None]
            content = self._take(layers, plan)
            self._contents.append(content)
            for layer in layers:
                self._layers[layer.name] = Pages(
                    content, layer.head_dim, self._device.driver.donate
                )
        self._device.driver.flush()
        self.zero(np.zeros(1, np.int32))  # compiles what later calls run
        self.copy(np.zeros((1, 2), np.int32))

    def layer(self, name: str) -> Pages:
        """The handle of a layer."""
        return self._layers[name]

    def zero(self, blocks: Array) -> None:
        """In runs of one length, so that few programs are made."""
        for index in self._runs(blocks):
            for content in self._contents:
                content.index_fill_(0, index, 0)
            self._device.driver.flush()

    def copy(self, pairs: Array) -> None:
        """As `zero`; all sources are read before any target is written."""
        runs = []
        for index in self._runs(pairs):
            sources, targets = index.unbind(1)
            runs.append((targets, [x.index_select(0, sources) for x in self._contents]))
            self._device.driver.flush()
        for targets, rows in runs:
            for content, row in zip(self._contents, rows, strict=True):
                content.index_copy_(0, targets, row)
            self._device.driver.flush()

    def read_tokens(self, layer: str, slots: Array) -> tuple[Array, Array]:
        """For the kit."""
        k, v = self._layers[layer].read(self._index(slots))
        return k.float().cpu().numpy(), v.float().cpu().numpy()

    def write_tokens(self, layer: str, slots: Array, k: Array, v: Array) -> None:
        """For the kit."""
        index = self._index(slots)
        k_NKH, v_NKH = (torch.from_numpy(x).to(index.device) for x in (k, v))
        self._layers[layer].write(index, k_NKH, v_NKH)
        self._device.driver.flush()

    def _take(self, layers: list[LayerKV], plan: KVPlan) -> Tensor:
        shapes = {
            (2 * layer.num_kv_heads, padded_size(layer), _dtype(layer)): layer.name
            for layer in layers
        }
        if len(shapes) > 1:
            raise ConfigError(
                "KV groups can share blocks only between layers of one shape, but "
                + ", ".join(f"{name} has {shape}" for shape, name in shapes.items())
            )
        ((rows, width, dtype),) = shapes
        shape = (plan.num_blocks, plan.block_size, rows, width)
        with self._allocator.pool("kv"):
            content = torch.zeros(shape, dtype=dtype, device=self._device.torch_device)
            return self._device.spread(content, cut=2)  # heads stay with who computes them

    def _runs(self, ids: Array) -> Iterator[Tensor]:
        """Pieces of `_RUN` rows; the last is filled up with its own last row."""
        for start in range(0, len(ids), _RUN):
            piece = ids[start : start + _RUN]
            rest = np.repeat(piece[-1:], _RUN - len(piece), axis=0)
            yield self._index(np.concatenate((piece, rest)))

    def _index(self, ids: Array) -> Tensor:
        return torch.from_numpy(ids).to(self._device.torch_device, torch.int64)


def joined(k: Tensor, v: Tensor, width: int) -> Tensor:
    """k[N,K,H], v[N,K,H] as rows [N,2K,width]: keys and values alternate, zeros fill up."""
    pairs = torch.stack((k, v), 2).flatten(1, 2)
    return F.pad(pairs, (0, width - pairs.shape[-1]))


def padded_size(layer: LayerKV) -> int:
    """The head size in memory."""
    return -(-max(layer.head_dim, layer.head_dim_v) // LANES) * LANES


def _dtype(layer: LayerKV) -> torch.dtype:
    dtype = getattr(torch, layer.dtype)
    assert isinstance(dtype, torch.dtype)
    return dtype
