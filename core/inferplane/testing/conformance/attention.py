"""Level 3, attention: every backend, on scenes from decode to drafts, written and read through KV.

T tokens, N heads, K KV heads, H head size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import numpy as np
import pytest
import torch

from inferplane.execution.quantized_kv import KV_KINDS
from inferplane.execution.reference_attention import ReferenceAttention
from inferplane.interfaces import (
    Array,
    AttentionBackend,
    AttentionSpec,
    Bucket,
    KVGroup,
    KVPlan,
    KVStore,
    LayerKV,
    Reasons,
)
from inferplane.testing.conformance.attention_scenes import (
    SCENES,
    Scene,
    Setting,
    attention_truth,
    specs,
)
from inferplane.testing.conformance.base import Conformance
from inferplane.testing.conformance.parts import Parts
from inferplane.testing.conformance.subject import Subject
from inferplane.testing.conformance.tolerances import FROBENIUS, tolerance

__all__ = ["AttentionConformance", "Bench", "scene_faults"]

NUM_BLOCKS = 40
SPARE = 6
LAYER = "layer"


@dataclass(frozen=True)
class Bench:
    """One backend with the parts it runs on."""

    backend: type[AttentionBackend]
    parts: Parts
    subject: Subject

    @property
    def block_size(self) -> int:
        """What the core would choose."""
        return math.lcm(self.subject.caps.block_multiple, self.backend.block_multiple)

    @property
    def layout(self) -> str | None:
        """The first layout both sides know."""
        known = self.subject.caps.kv_layouts
        return next((x for x in self.backend.layouts if x in known), None)

    def served(self, dtype: str) -> Iterator[tuple[str, AttentionSpec]]:
        """The specs it does not refuse."""
        for name, spec in specs(self.subject.caps, self.block_size, dtype):
            if not self.backend.supports(spec, self.subject.caps):
                yield name, spec

    def refusals(self) -> list[Reasons]:
        """Its reasons against each layer, [] where it serves one of them."""
        dtypes = self.subject.caps.compute_dtypes
        asked = (s for dtype in dtypes for _, s in specs(self.subject.caps, self.block_size, dtype))
        found = [self.backend.supports(spec, self.subject.caps) for spec in asked]
        return found if all(found) else []

    def store(self, spec: AttentionSpec) -> KVStore:
        """Zeroed KV for one layer of that kind."""
        assert self.layout is not None
        layer = LayerKV(
            LAYER,
            spec.num_kv_heads,
            spec.head_dim,
            spec.head_dim_v,
            spec.kv_dtype,
            self.layout,
            spec.window,
        )
        groups = tuple(KVGroup((layer,), spec.window) for _ in range(spec.group + 1))
        store = self.parts.new_store()
        store.allocate(KVPlan(NUM_BLOCKS, spec.block_size, groups))
        return store

    def run(
        self, setting: Setting, store: KVStore, bucket: Bucket | None = None, shared: bool = False
    ) -> Array:
        """f32 [T,N,Hv] of the real tokens; `shared`: the layer writes nothing of its own."""
        spec, runtime = setting.spec, self.parts.runtime
        backend = self.backend(spec, runtime)
        batch = setting.batch()
        meta = backend.build(batch, bucket)
        rows = _rows(setting, bucket)
        total = len(setting.q) if bucket is None else bucket.num_tokens
        dtype = getattr(torch, spec.dtype)

        def up(values: Array) -> torch.Tensor:
            placed = np.zeros((total, *values.shape[1:]), np.float32)
            placed[rows] = values
            return torch.from_numpy(placed).to(dtype).to(self.parts.torch_device)

        arrays = runtime.to_device(dict(meta.arrays), bucket)
        sinks = None
        if setting.sinks is not None:
            sinks = torch.from_numpy(setting.sinks).to(self.parts.torch_device)
        k, v = (None, None) if shared else (up(setting.k), up(setting.v))
        out = backend.forward(
            up(setting.q), k, v, store.layer(LAYER), replace(meta, arrays=arrays), sinks
        )
        found: Array = out.float().cpu().numpy()[rows]
        return found


class AttentionConformance(Conformance):
    """L3 for every backend of the device and the core's reference on it.

    A subclass may give the fixture `backends` to check only its own.
    """

    level: ClassVar[int] = 3
    wide_only: ClassVar[bool] = True

    @pytest.fixture
    def backends(self, subject: Subject) -> list[type[AttentionBackend]]:
        """The classes to check."""
        found = [cast("type[AttentionBackend]", e.load()) for e in subject.entries("attention")]
        return [*found, ReferenceAttention]

    @pytest.fixture
    def benches(
        self,
        subject: Subject,
        backends: list[type[AttentionBackend]],
        parts: Parts,
    ) -> list[Bench]:
        """Backends that share a layout with the device's KV store."""
        made = [Bench(backend, parts, subject) for backend in backends]
        return [bench for bench in made if bench.layout is not None]

    def test_backends_refuse_with_reasons(
        self, subject: Subject, backends: list[type[AttentionBackend]]
    ) -> None:
        """Asked about layers nobody has: no exception, no empty reason."""
        odd = AttentionSpec(7, 7, 13, 11, "nonsense", "nonsense", 0.0, 5, window=1, latent=True)
        for backend in backends:
            for spec in (odd, replace(odd, causal=False), replace(odd, cached=False)):
                reasons = backend.supports(spec, subject.caps)
                assert all(isinstance(r, str) and r.strip() for r in reasons)

    def test_every_backend_serves_something(self, benches: list[Bench]) -> None:
        """One that finds something wrong with every layer is dead weight; one that gives the same
        reason whatever the layer, such as a package that is not installed, is not there."""
        assert benches, "no backend shares a KV layout with the device"
        refusals = {bench.backend.__name__: bench.refusals() for bench in benches}
        assert not all(refusals.values()), refusals
        for name, found in refusals.items():
            assert not found or set.intersection(*map(set, found)), f"{name}: {found}"

    def test_attention_is_right_in_every_scene(self, benches: list[Bench]) -> None:
        """Decode, prefill, chunks, mixed steps, grouped heads, windows, soft cap, sinks, drafts,
        caches of every type the device states."""
        faults = []
        for bench in benches:
            for dtype in bench.subject.caps.compute_dtypes:
                for name, spec in bench.served(dtype):
                    for scene in SCENES:
                        if bool(scene.drafts) <= bool(spec.drafts) and _allowed(bench, scene):
                            faults += scene_faults(bench, name, spec, scene)
        assert faults == []

    def test_what_is_written_is_what_is_read(self, benches: list[Bench]) -> None:
        """Keys and values land in their slots, and nothing else changes but scratch block 0."""
        for bench, spec, scene in _plain(benches):
            setting = Setting.make(spec, scene, NUM_BLOCKS, seed=3)
            store = bench.store(spec)
            _fill(setting, store)
            everything = np.arange(spec.block_size, NUM_BLOCKS * spec.block_size, dtype=np.int32)
            before = store.read_tokens(LAYER, everything)
            bench.run(setting, store, _bucket(bench, setting))
            after = store.read_tokens(LAYER, everything)
            slots = setting.batch().slots[spec.group] - spec.block_size
            for held, was, new in zip(after, before, (setting.k, setting.v), strict=True):
                want = was.copy()
                want[slots] = _rounded(_rounded(new, spec.dtype), spec.kv_dtype)
                np.testing.assert_array_equal(held, want, err_msg=f"{bench.backend.__name__}")

    def test_other_blocks_other_places_same_result(self, benches: list[Bench]) -> None:
        """Block ids are names: which ones a sequence has must not matter, not even in a bit."""
        for bench, spec, scene in _plain(benches):
            setting = Setting.make(spec, scene, NUM_BLOCKS, seed=4)
            first, second = (_fresh_run(bench, s) for s in (setting, setting.moved(9)))
            np.testing.assert_array_equal(first, second, err_msg=bench.backend.__name__)

    def test_junk_in_unused_places_has_no_effect(self, benches: list[Bench]) -> None:
        """Stale blocks, block 0 and the rest of a last block hold what earlier requests left."""
        for bench, spec, scene in _plain(benches):
            setting = Setting.make(spec, scene, NUM_BLOCKS, seed=5, spare=SPARE)
            clean = _fresh_run(bench, setting)
            dirty = _fresh_run(bench, setting, junk=1e4)
            np.testing.assert_array_equal(clean, dirty, err_msg=bench.backend.__name__)

    def test_padding_changes_nothing_that_is_real(self, benches: list[Bench]) -> None:
        """Real rows keep their result; padding writes nowhere but into scratch block 0."""
        for bench, spec, scene in _plain(benches):
            setting = Setting.make(spec, scene, NUM_BLOCKS, seed=6, spare=SPARE)
            num_tokens, num_seqs = len(setting.q), len(setting.tables)
            small = _bucket(bench, setting)
            padded = Bucket("mixed", num_tokens + 11, num_seqs + 4)
            faults = []
            plain = _fresh_run(bench, setting, bucket=small)
            store = bench.store(spec)
            _fill(setting, store, junk=3.0)
            got = bench.run(setting, store, padded)
            limit = tolerance("attention", spec.dtype)
            if excess := limit.excess(got.astype(np.float64), plain.astype(np.float64)):
                faults.append(f"{bench.backend.__name__} {scene.name}: {excess}")
            faults += _touched(setting, store, bench)
            assert faults == []

    def test_a_layer_may_read_what_another_wrote(self, benches: list[Bench]) -> None:
        """k and v are None where layers share their KV."""
        for bench, spec, scene in _plain(benches):
            setting = Setting.make(spec, scene, NUM_BLOCKS, seed=7)
            store = bench.store(spec)
            _fill(setting, store)
            bucket = _bucket(bench, setting)
            first = bench.run(setting, store, bucket)
            second = bench.run(setting, store, bucket, shared=True)
            limit = tolerance("attention", spec.dtype)
            excess = limit.excess(second.astype(np.float64), first.astype(np.float64))
            assert excess == "", f"{bench.backend.__name__} {scene.name}: {excess}"


def _allowed(bench: Bench, scene: Scene) -> bool:
    """Whether the device's scheduler could make such a step."""
    limits = bench.subject.caps.limits
    prefills = [(c, n) for c, n in scene.sequences if n > 1 + scene.drafts or c == 0]
    chunked = any(c > 0 for c, n in prefills)
    mixed = 0 < len(prefills) < len(scene.sequences)
    return (
        (limits.mix_prefill_decode or not mixed)
        and (limits.chunked_prefill or not chunked)
        and (limits.max_prefill_seqs is None or len(prefills) <= limits.max_prefill_seqs)
    )


def _plain(benches: list[Bench]) -> Iterator[tuple[Bench, AttentionSpec, Scene]]:
    """Each backend with a plain and a windowed spec in its first dtype, in a few scenes."""
    for bench in benches:
        for dtype in bench.subject.caps.compute_dtypes[:1]:
            served = dict(bench.served(dtype))
            for kind in ("grouped heads", "window"):
                for scene in SCENES:
                    if kind in served and not scene.drafts and _allowed(bench, scene):
                        yield bench, served[kind], scene


def _bucket(bench: Bench, setting: Setting) -> Bucket | None:
    """None where steps run unpadded; else the smallest packed bucket that holds the step."""
    if not bench.subject.caps.static_shapes:
        return None
    return Bucket("mixed", len(setting.q), len(setting.tables))


def _rows(setting: Setting, bucket: Bucket | None) -> Array:
    """Where the real tokens lie in a padded step."""
    assert bucket is None or not bucket.rectangular
    return np.arange(len(setting.q))


def _fill(setting: Setting, store: KVStore, junk: float = 0.0) -> list[tuple[Array, Array]]:
    """Write the cached tokens, junk everywhere else; whole sequences as the cache rounds them."""
    spec = setting.spec
    if junk:
        rng = np.random.default_rng(11)
        slots = np.arange(NUM_BLOCKS * spec.block_size, dtype=np.int32)
        k = rng.uniform(-junk, junk, (len(slots), spec.num_kv_heads, spec.head_dim))
        v = rng.uniform(-junk, junk, (len(slots), spec.num_kv_heads, spec.head_dim_v))
        store.write_tokens(LAYER, slots, k.astype(np.float32), v.astype(np.float32))
    whole, row = [], 0
    for number, (k_CKH, v_CKH) in enumerate(setting.history):
        kept = setting.kept(number)
        if kept:
            slots = setting.slots_of(number, kept)
            store.write_tokens(LAYER, slots, k_CKH[kept], v_CKH[kept])
        new = setting.scene.sequences[number][1]
        pairs = ((k_CKH, setting.k), (v_CKH, setting.v))
        joined = [
            _rounded(np.concatenate((a, _rounded(b[row : row + new], spec.dtype))), spec.kv_dtype)
            for a, b in pairs
        ]
        whole.append((joined[0], joined[1]))
        row += new
    return whole


def _fresh_run(
    bench: Bench, setting: Setting, junk: float = 0.0, bucket: Bucket | None = None
) -> Array:
    store = bench.store(setting.spec)
    _fill(setting, store, junk)
    return bench.run(setting, store, bucket or _bucket(bench, setting))


def scene_faults(bench: Bench, name: str, spec: AttentionSpec, scene: Scene) -> list[str]:
    """Where a backend is beyond its tolerance in one scene; [] = nowhere."""
    setting = Setting.make(spec, scene, NUM_BLOCKS, seed=len(scene.name))
    store = bench.store(spec)
    whole = _fill(setting, store)
    got = bench.run(setting, store, _bucket(bench, setting)).astype(np.float64)
    rounded = replace(setting, q=_rounded(setting.q, spec.dtype))
    truth = attention_truth(rounded, whole)
    told = f"{bench.backend.__name__} {spec.dtype}, {name}, {scene.name}"
    if spec.kv_dtype not in ("auto", spec.dtype):
        error = float(np.linalg.norm(got - truth) / np.linalg.norm(truth))
        return [] if error <= FROBENIUS["fp8_kv"] else [f"{told}: error {error:.3g}"]
    factor = bench.subject.expectations.factors.get("attention", 1.0)
    excess = tolerance("attention", spec.dtype, factor=factor).excess(got, truth)
    return [f"{told}: {excess}"] if excess else []


def _touched(setting: Setting, store: KVStore, bench: Bench) -> list[str]:
    """Blocks that no sequence owns and that are not block 0, changed since `_fill` with junk 3."""
    untouched = bench.store(setting.spec)
    _fill(setting, untouched, junk=3.0)
    used = {block for table in setting.tables for block in table}
    size = setting.spec.block_size
    faults = []
    for block in range(1, NUM_BLOCKS):
        if block in used:
            continue
        slots = np.arange(block * size, (block + 1) * size, dtype=np.int32)
        pairs = zip(
            store.read_tokens(LAYER, slots), untouched.read_tokens(LAYER, slots), strict=True
        )
        if not all(np.array_equal(a, b) for a, b in pairs):
            faults.append(f"{bench.backend.__name__}: padding wrote to block {block}")
    return faults


def _rounded(values: Array, dtype: str) -> Array:
    """f32 values as they come back from `dtype`; as they are where each row has a scale."""
    if dtype in KV_KINDS:
        return values
    out: Array = torch.from_numpy(values.copy()).to(getattr(torch, dtype)).float().numpy()
    return out
