"""KV in 8 bits as flat slots: codes and scales in tensors of their own, on either fp8."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from inferplane.execution.host_runtime import HostRuntime
from inferplane.execution.torch_allocator import TorchAllocator
from inferplane.interfaces import KVGroup, KVPlan, LayerKV, Probe
from inferplane_gaudi.kv_store import FlatKVStore
from inferplane_gaudi.platform import Gaudi

SIZE, BLOCKS = 8, 5
SLOTS = np.arange(SIZE, BLOCKS * SIZE, dtype=np.int32)
KINDS = [("int8", "range240", 1 / 127), ("fp8", "range240", 1 / 16), ("fp8", "e4m3fn", 1 / 16)]


def stored(layer: LayerKV, fp8: str) -> FlatKVStore:
    store = FlatKVStore(HostRuntime(), TorchAllocator(), fp8)
    store.allocate(KVPlan(BLOCKS, SIZE, (KVGroup((layer,)),)))
    return store


@pytest.mark.parametrize(("kind", "fp8", "step"), KINDS)
def test_what_is_read_is_what_was_written_within_a_code(kind: str, fp8: str, step: float) -> None:
    layer = LayerKV("a", 2, 16, 24, kind)
    store, rng = stored(layer, fp8), np.random.default_rng(0)
    k, v = (rng.normal(0, 3, (len(SLOTS), 2, d)).astype(np.float32) for d in (16, 24))
    store.write_tokens("a", SLOTS, k, v)
    for got, want in zip(store.read_tokens("a", SLOTS), (k, v), strict=True):
        largest = np.abs(want).max(-1, keepdims=True)
        assert (np.abs(got - want) <= step * largest).all() and np.isfinite(got).all()
    store.copy(np.array([[1, 4]], np.int32))
    store.zero(np.array([2], np.int32))
    again, _ = store.read_tokens("a", SLOTS)
    blocks = again.reshape(BLOCKS - 1, SIZE, 2, 16)
    assert np.array_equal(blocks[3], blocks[0]) and not blocks[1].any() and blocks[2].any()


def test_a_block_costs_its_codes_and_their_scales() -> None:
    layer = LayerKV("a", 2, 16, 24, "int8")
    store = stored(layer, "range240")
    taken = sum(tensor.nbytes for tensor in store._tensors)
    assert store.bytes_per_block(layer, SIZE) * BLOCKS == taken
    assert taken < sum(t.nbytes for t in stored(LayerKV("a", 2, 16, 24, "bfloat16"), "")._tensors)


def test_numbers_a_checkpoint_was_calibrated_for_set_the_scale() -> None:
    layer = LayerKV("a", 2, 16, 16, "int8", k_largest=(12.7, 127.0), v_largest=(1.27, 1.27))
    store = stored(layer, "range240")
    k = np.full((1, 2, 16), 5.0, np.float32)
    store.write_tokens("a", SLOTS[:1], k, k)
    keys, values = store.read_tokens("a", SLOTS[:1])
    np.testing.assert_allclose(keys, k, rtol=0.01)
    np.testing.assert_allclose(values, 1.27, rtol=0.01)  # clipped


def test_fp8_kv_is_offered_where_it_is_known_what_its_codes_mean() -> None:
    def kinds(arch: str) -> tuple[str, ...]:
        return Gaudi().capabilities(Probe(True, "", arch=arch), None).kv_dtypes

    assert "fp8" in kinds("gaudi2") and "fp8" in kinds("gaudi3")
    assert kinds("gaudi") == ("bfloat16", "float32", "int8")
