"""Laws of KV blocks in 8 bits: close to what was written, half the memory, chosen with reasons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from inferplane.errors import ConfigError
from inferplane.execution.host_runtime import HostRuntime
from inferplane.execution.kv_planning import KVDemand, page_bytes, plan_blocks
from inferplane.execution.quantized_kv import KV_KINDS
from inferplane.execution.reference_attention import ReferenceAttention
from inferplane.execution.torch_allocator import TorchAllocator
from inferplane.execution.torch_kv_store import TorchKVStore
from inferplane.interfaces import (
    AttentionSpec,
    EngineConfig,
    KVGroup,
    KVPlan,
    LayerKV,
    MemoryReport,
)
from inferplane.llm import LLM
from inferplane.sampling_params import SamplingParams
from inferplane.testing.conformance.attention_scenes import SCENES, Setting, attention_truth
from inferplane.testing.conformance.tolerances import FROBENIUS

KINDS = pytest.mark.parametrize("kind", KV_KINDS)
HALF_STEP = {"int8": 0.5 / 127, "fp8": 1 / 16}
"""Largest error of a number: of the row's largest for int8, of itself for fp8."""
BLOCKS, BLOCK = 40, 16
ALL = np.arange(BLOCKS * BLOCK, dtype=np.int32)


def layer(kind: str, name: str = "a") -> LayerKV:
    return LayerKV(name, 2, head_dim=64, head_dim_v=64, dtype=kind)


def store_of(*layers: LayerKV) -> TorchKVStore:
    store = TorchKVStore(HostRuntime(), TorchAllocator())
    store.allocate(KVPlan(BLOCKS, BLOCK, (KVGroup(layers),)))
    return store


def content(seed: int, count: int = len(ALL)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    spread = 10.0 ** rng.uniform(-6, 3, (count, 2, 1))
    return (rng.normal(size=(count, 2, 64)) * spread).astype(np.float32)


@KINDS
def test_what_is_written_is_read_within_half_a_step_whatever_its_size(kind: str) -> None:
    store = store_of(layer(kind))
    k, v = content(1), content(2)
    store.write_tokens("a", ALL, k, v)
    for got, want in zip(store.read_tokens("a", ALL), (k, v), strict=True):
        largest = np.abs(want).max(-1, keepdims=True)
        size = np.broadcast_to(largest, want.shape) if kind == "int8" else np.abs(want)
        # bfloat16 scales are off by up to 1/256, which the clamp of the largest code shows
        allowed = HALF_STEP[kind] * size + largest * (2**-8 + 2**-9 / 448)
        assert (np.abs(got - want) <= allowed).all()


@KINDS
def test_zeroing_and_copying_a_block_carry_its_scales(kind: str) -> None:
    store = store_of(layer(kind), layer(kind, "b"))
    for number, name in enumerate("ab"):
        store.write_tokens(name, ALL, content(number), content(number + 7))
    held = {name: store.read_tokens(name, ALL) for name in "ab"}
    store.zero(np.array([3], np.int32))
    store.copy(np.array([[5, 6]], np.int32))
    for name in "ab":
        for got, was in zip(store.read_tokens(name, ALL), held[name], strict=True):
            blocks, before = (x.reshape(BLOCKS, BLOCK, 2, 64) for x in (got, was))
            assert not blocks[3].any()
            np.testing.assert_array_equal(blocks[6], before[5])
            np.testing.assert_array_equal(blocks[7:], before[7:])


@KINDS
def test_the_planner_finds_almost_twice_the_blocks(kind: str) -> None:
    store = TorchKVStore(HostRuntime(), TorchAllocator())
    config = EngineConfig("m", max_model_len=1024, max_num_seqs=64)

    def blocks(dtype: str) -> int:
        groups = (KVGroup(tuple(layer(dtype, str(n)) for n in range(4))),)
        page = page_bytes(groups, store, BLOCK)
        memory = MemoryReport(total=64 << 20, free=64 << 20)
        return plan_blocks(KVDemand(groups, BLOCK, 256), page, memory, config).num_blocks

    assert blocks(kind) / blocks("bfloat16") > 1.9


@KINDS
def test_other_layouts_are_refused_by_name(kind: str) -> None:
    with pytest.raises(ConfigError, match=f"in {kind} is laid out as nhd, not hnd"):
        store_of(replace(layer(kind), layout="hnd"))


@KINDS
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_the_reference_attends_to_what_such_a_cache_holds(kind: str, scene: object) -> None:
    spec = AttentionSpec(4, 2, 64, 64, "float32", kind, 0.125, BLOCK)
    setting = Setting.make(spec, scene, BLOCKS)  # type: ignore[arg-type]
    store = store_of(layer(kind))
    batch, row, stored = setting.batch(), 0, []
    for (cached, new), (k, v), table in zip(
        setting.scene.sequences, setting.history, setting.tables, strict=True
    ):
        places = np.arange(cached)
        slots = np.array(table, np.int32)[places // BLOCK] * BLOCK + places % BLOCK
        store.write_tokens("a", slots.astype(np.int32), k, v)
        whole = (
            np.concatenate((k, setting.k[row : row + new])),
            np.concatenate((v, setting.v[row : row + new])),
        )
        stored.append(whole)
        row += new
    backend = ReferenceAttention(spec, HostRuntime())
    meta = backend.build(batch, None)
    arrays = {name: torch.from_numpy(array) for name, array in meta.arrays.items()}
    q, k, v = (torch.from_numpy(x) for x in (setting.q, setting.k, setting.v))
    got = backend.forward(q, k, v, store.layer("a"), replace(meta, arrays=arrays)).numpy()
    truth = attention_truth(setting, stored)
    assert np.linalg.norm(got - truth) <= FROBENIUS["fp8_kv"] * np.linalg.norm(truth)


IDS = [int(x) for x in np.random.default_rng(0).integers(3, 200, 90)]


def served(model: Path, **settings: object) -> tuple[np.ndarray, tuple[str, tuple[str, ...]]]:
    """(log-probabilities of IDS, the attention backend and why native is not it)"""
    params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0)
    with LLM(str(model), device="cpu", dtype="float32", max_model_len=128, **settings) as llm:
        told = llm.generate([IDS], params)[0].prompt_logprobs
        choice = next(c for c in llm.choices() if c.kind == "attention")
    assert told is not None
    values = np.array([row.values[0] for row in told if row is not None])
    return values, (choice.name, choice.rejected.get("native", ()))


def test_a_served_model_stays_close_however_its_prompt_is_cut(
    tiny: Callable[[str], Path],
) -> None:
    model = tiny("llama")
    exact, _ = served(model)
    # random weights spread logits over several units, more than those of real models
    for kind, limit in (("int8", 0.05), ("fp8", 0.25)):
        whole, (backend, against_native) = served(model, kv_dtype=kind)
        assert backend == "paged"
        assert any(f"kv_dtype {kind}" in reason for reason in against_native)
        assert 0 < np.abs(whole - exact).mean() <= limit
    cut, _ = served(model, kv_dtype="fp8", max_batched_tokens=32)
    np.testing.assert_allclose(cut, whole, atol=2e-3)


def test_a_device_that_does_not_store_it_refuses_with_what_it_stores(
    tiny: Callable[[str], Path],
) -> None:
    with pytest.raises(ConfigError, match="no kv_dtype 'int4' .accepted: auto, .*int8, fp8"):
        LLM(str(tiny("llama")), device="cpu", kv_dtype="int4")
