"""Laws of the core's KV store, for both layouts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inferplane.errors import ConfigError
from inferplane.execution.host_runtime import HostRuntime
from inferplane.execution.torch_allocator import TorchAllocator
from inferplane.execution.torch_kv_store import TorchKVStore
from inferplane.interfaces import KVGroup, KVPlan, LayerKV

LAYOUTS = pytest.mark.parametrize("layout", ["nhd", "hnd"])
BLOCKS, BLOCK = 6, 4


def layer(name: str, layout: str, heads: int = 2, dtype: str = "float32") -> LayerKV:
    return LayerKV(name, heads, head_dim=8, head_dim_v=6, dtype=dtype, layout=layout)


def store_of(*groups: tuple[LayerKV, ...]) -> tuple[TorchKVStore, TorchAllocator]:
    allocator = TorchAllocator()
    store = TorchKVStore(HostRuntime(), allocator)
    store.allocate(KVPlan(BLOCKS, BLOCK, tuple(KVGroup(layers) for layers in groups)))
    return store, allocator


def fill(store: TorchKVStore, name: str, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    slots = np.arange(BLOCKS * BLOCK, dtype=np.int32)
    k = rng.normal(size=(len(slots), 2, 8)).astype(np.float32)
    v = rng.normal(size=(len(slots), 2, 6)).astype(np.float32)
    store.write_tokens(name, slots, k, v)


@LAYOUTS
def test_what_is_written_is_read_and_nothing_else_changes(layout: str) -> None:
    store, _ = store_of((layer("a", layout),))
    slots = np.array([5, 11, 20], np.int32)
    k = np.random.default_rng(1).normal(size=(3, 2, 8)).astype(np.float32)
    v = np.random.default_rng(2).normal(size=(3, 2, 6)).astype(np.float32)
    store.write_tokens("a", slots, k, v)
    read_k, read_v = store.read_tokens("a", slots)
    np.testing.assert_array_equal(read_k, k)
    np.testing.assert_array_equal(read_v, v)
    others = np.setdiff1d(np.arange(BLOCKS * BLOCK), slots).astype(np.int32)
    assert not np.concatenate([x.ravel() for x in store.read_tokens("a", others)]).any()


@LAYOUTS
def test_zero_clears_the_named_blocks_of_every_layer_alone(layout: str) -> None:
    store, _ = store_of((layer("a", layout), layer("b", layout)))
    for name in "ab":
        fill(store, name)
    store.zero(np.array([1, 4], np.int32))
    for name in "ab":
        k, v = store.read_tokens(name, np.arange(BLOCKS * BLOCK, dtype=np.int32))
        empty = [not k[b * BLOCK : (b + 1) * BLOCK].any() for b in range(BLOCKS)]
        assert empty == [False, True, False, False, True, False]
        assert not v[4:8].any() and v[8:12].all()


@LAYOUTS
def test_copy_reads_every_source_before_it_writes(layout: str) -> None:
    store, _ = store_of((layer("a", layout),))
    fill(store, "a")
    slots = np.arange(BLOCKS * BLOCK, dtype=np.int32)
    before, _ = store.read_tokens("a", slots)
    store.copy(np.array([[1, 2], [2, 3]], np.int32))
    after, _ = store.read_tokens("a", slots)
    np.testing.assert_array_equal(after[8:12], before[4:8])
    np.testing.assert_array_equal(after[12:16], before[8:12])


def test_bytes_per_block_is_what_allocation_takes() -> None:
    layers = (layer("a", "nhd", dtype="bfloat16"), layer("b", "hnd", dtype="bfloat16"))
    store, allocator = store_of(layers)
    expected = BLOCKS * sum(store.bytes_per_block(one, BLOCK) for one in layers)
    assert allocator.used() == {"kv": expected}
    assert store.bytes_per_block(layers[0], BLOCK) == BLOCK * 2 * (8 + 6) * 2


def test_groups_share_the_pool() -> None:
    full = (layer("a", "nhd"), layer("b", "nhd"))
    store, allocator = store_of(full, (layer("w", "nhd"),))
    assert allocator.used() == {
        "kv": BLOCKS * sum(store.bytes_per_block(one, BLOCK) for one in full)
    }
    assert store.layer("w").k.data_ptr() == store.layer("a").k.data_ptr()


def test_groups_with_layers_of_other_sizes_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"a 256 \+ 192 bytes, w 512 \+ 384 bytes"):
        store_of((layer("a", "nhd"),), (layer("w", "nhd", heads=4),))


def test_allocating_again_replaces_the_memory() -> None:
    store, allocator = store_of((layer("a", "nhd"),))
    fill(store, "a")
    store.allocate(KVPlan(2, BLOCK, (KVGroup((layer("a", "nhd"),)),)))
    assert allocator.used() == {"kv": 2 * store.bytes_per_block(layer("a", "nhd"), BLOCK)}
    assert not store.layer("a").k.any()


def test_kv_content_survives_sleep_with_a_copy() -> None:
    store, allocator = store_of((layer("a", "hnd"),))
    fill(store, "a")
    before = store.layer("a").k.clone()
    allocator.release("kv", keep_copy=True)
    allocator.restore("kv")
    assert torch.equal(store.layer("a").k, before)
