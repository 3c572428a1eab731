"""Level 3, KV store: what is written is read, blocks are zeroed and copied whole, sizes are true.

N slots, K KV heads, H head size, Hv value head size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch

from inferplane.execution.quantized_kv import KV_KINDS
from inferplane.interfaces import Array, KVGroup, KVPlan, KVStore, LayerKV
from inferplane.testing.conformance.base import Conformance
from inferplane.testing.conformance.parts import Parts
from inferplane.testing.conformance.subject import Subject

__all__ = ["KVStoreConformance"]

NUM_BLOCKS = 12
SLACK_BYTES = 64 * 1024
"""What an allocator may round up by, for all layers together."""


class KVStoreConformance(Conformance):
    """L3 for the device's store, in every layout and KV dtype it states."""

    level: ClassVar[int] = 3
    wide_only: ClassVar[bool] = True

    def test_memory_is_zero_at_first(self, subject: Subject, parts: Parts) -> None:
        """The core promises finite numbers in every block it hands out."""
        for plan in _plans(subject):
            store = _allocated(parts, plan)
            for layer in _layers(plan):
                k, v = store.read_tokens(layer.name, _slots(plan, range(NUM_BLOCKS)))
                assert not k.any() and not v.any(), layer

    def test_what_is_written_is_read_back(self, subject: Subject, parts: Parts) -> None:
        """Exactly, after the cast to the cache's dtype; in any order; in its layer alone."""
        for plan in _plans(subject):
            store = _allocated(parts, plan)
            written = {layer.name: _write(store, plan, layer) for layer in _first_group(plan)}
            for layer in _first_group(plan):
                slots, k, v = written[layer.name]
                got_k, got_v = store.read_tokens(layer.name, slots)
                np.testing.assert_array_equal(got_k, _cast(k, layer), err_msg=str(layer))
                np.testing.assert_array_equal(got_v, _cast(v, layer), err_msg=str(layer))

    def test_zeroing_reaches_every_layer_and_nothing_else(
        self, subject: Subject, parts: Parts
    ) -> None:
        """A block of a failed request must not come back with what it held."""
        for plan in _plans(subject):
            store = _allocated(parts, plan)
            before = _filled(store, plan)
            store.zero(np.array([3, 7], np.int32))
            for layer in _first_group(plan):
                for block in range(NUM_BLOCKS):
                    want = before[layer.name, block]
                    if block in (3, 7):
                        want = tuple(np.zeros_like(x) for x in want)
                    _assert_block(store, plan, layer, block, want)

    def test_copying_moves_whole_blocks_of_every_layer(
        self, subject: Subject, parts: Parts
    ) -> None:
        """Sources are read before any target is written, so a chain copies what was there."""
        pairs = np.array([(1, 5), (2, 6), (5, 9)], np.int32)
        for plan in _plans(subject):
            store = _allocated(parts, plan)
            before = _filled(store, plan)
            store.copy(pairs)
            origin = {5: 1, 6: 2, 9: 5}
            for layer in _first_group(plan):
                for block in range(NUM_BLOCKS):
                    want = before[layer.name, origin.get(block, block)]
                    _assert_block(store, plan, layer, block, want)

    def test_a_block_costs_what_it_says(self, subject: Subject, parts: Parts) -> None:
        """The core divides memory by this number; the allocator's ledger tells the truth."""
        for plan in _plans(subject):
            many = replace(plan, num_blocks=400)
            store = parts.new_store()
            said = [
                sum(store.bytes_per_block(layer, plan.block_size) for layer in group.layers)
                for group in plan.groups
            ]
            before = parts.allocator.used().get("kv", 0)
            store.allocate(many)
            took = parts.allocator.used().get("kv", 0) - before
            expected = max(said) * many.num_blocks
            assert expected <= took + SLACK_BYTES, f"says {expected} bytes, takes {took}"
            assert took <= expected + SLACK_BYTES, f"takes {took} bytes, says {expected}"
            del store

    def test_sizes_are_a_pure_answer(self, subject: Subject, parts: Parts) -> None:
        """Asked before anything is allocated; more tokens never cost less."""
        for plan in _plans(subject):
            store = parts.new_store()
            for layer in _layers(plan):
                size = store.bytes_per_block(layer, plan.block_size)
                assert size > 0 and size == store.bytes_per_block(layer, plan.block_size)
                assert store.bytes_per_block(layer, 2 * plan.block_size) >= 2 * size - SLACK_BYTES


def _plans(subject: Subject) -> Iterator[KVPlan]:
    """One group; odd head counts; different value size; two groups that share bytes."""
    caps = subject.caps
    stored = [d for d in caps.kv_dtypes if d not in KV_KINDS]  # those are not kept exactly
    dtypes = [caps.compute_dtypes[0] if d == "auto" else d for d in stored]
    for layout in caps.kv_layouts:
        for dtype in dict.fromkeys(dtypes):
            plain = LayerKV("a", 2, 64, 64, dtype, layout)
            odd = LayerKV("b", 3, 128, 128, dtype, layout)
            pair = (plain, replace(plain, name="a2"))
            size = caps.block_multiple
            yield KVPlan(NUM_BLOCKS, size, (KVGroup(pair),))
            yield KVPlan(NUM_BLOCKS, size, (KVGroup((odd,)),))
            windowed = tuple(replace(layer, name=f"w{layer.name}", window=32) for layer in pair)
            yield KVPlan(NUM_BLOCKS, size, (KVGroup(pair), KVGroup(windowed, 32)))


def _allocated(parts: Parts, plan: KVPlan) -> KVStore:
    store = parts.new_store()
    store.allocate(plan)
    return store


def _layers(plan: KVPlan) -> list[LayerKV]:
    return [layer for group in plan.groups for layer in group.layers]


def _first_group(plan: KVPlan) -> tuple[LayerKV, ...]:
    return plan.groups[0].layers


def _slots(plan: KVPlan, blocks: range) -> Array:
    return np.arange(blocks.start * plan.block_size, blocks.stop * plan.block_size, dtype=np.int32)


def _write(store: KVStore, plan: KVPlan, layer: LayerKV) -> tuple[Array, Array, Array]:
    """Random content in every third slot, in random order."""
    rng = np.random.default_rng(len(layer.name))
    slots = rng.permutation(_slots(plan, range(1, NUM_BLOCKS))[::3]).astype(np.int32)
    heads = layer.num_kv_heads
    k = rng.normal(0, 2, (len(slots), heads, layer.head_dim)).astype(np.float32)
    v = rng.normal(0, 2, (len(slots), heads, layer.head_dim_v)).astype(np.float32)
    store.write_tokens(layer.name, slots, k, v)
    return slots, k, v


def _filled(store: KVStore, plan: KVPlan) -> dict[tuple[str, int], tuple[Array, ...]]:
    """(layer, block) -> keys and values, after filling the first group with random content."""
    held: dict[tuple[str, int], tuple[Array, ...]] = {}
    for layer in _first_group(plan):
        rng = np.random.default_rng(len(layer.name))
        slots = _slots(plan, range(NUM_BLOCKS))
        heads = layer.num_kv_heads
        k = rng.normal(0, 2, (len(slots), heads, layer.head_dim)).astype(np.float32)
        v = rng.normal(0, 2, (len(slots), heads, layer.head_dim_v)).astype(np.float32)
        store.write_tokens(layer.name, slots, k, v)
    for layer in _first_group(plan):
        for block in range(NUM_BLOCKS):
            held[layer.name, block] = store.read_tokens(
                layer.name, _slots(plan, range(block, block + 1))
            )
    return held


def _assert_block(
    store: KVStore, plan: KVPlan, layer: LayerKV, block: int, want: tuple[Array, ...]
) -> None:
    got = store.read_tokens(layer.name, _slots(plan, range(block, block + 1)))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=f"{layer.name}, block {block}")


def _cast(values: Array, layer: LayerKV) -> Array:
    out: Array = torch.from_numpy(values).to(getattr(torch, layer.dtype)).float().numpy()
    return out
