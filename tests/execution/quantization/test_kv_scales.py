"""Laws of a checkpoint's KV scales: checked, carried to the cache, obeyed when it is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from inferplane.errors import ConfigError, ModelError
from inferplane.execution.host_runtime import HostRuntime
from inferplane.execution.quantized_kv import kv_codes
from inferplane.execution.torch_allocator import TorchAllocator
from inferplane.execution.torch_kv_store import TorchKVStore
from inferplane.interfaces import KVGroup, KVPlan, LayerKV
from inferplane.llm import LLM
from inferplane.quantization.kv_scales import KVScales
from inferplane.sampling_params import SamplingParams

LAYER = "model.layers.1.self_attn"
FLAVOURS = [("fp8", "e4m3fn"), ("fp8", "e4m3fnuz"), ("fp8", "range240"), ("int8", "none")]
SLOTS = np.arange(32, dtype=np.int32)
WEIGHTS = "model.safetensors"
IDS = [int(x) for x in np.random.default_rng(0).integers(3, 200, 90)]


def scales_of(kind: str = "float", kv_dtype: str = "fp8", **scheme: object) -> KVScales:
    return KVScales({"kv_cache_scheme": {"type": kind, "num_bits": 8, **scheme}}, kv_dtype)


@pytest.mark.parametrize(("kind", "most"), [("float", 448.0), ("int", 127.0)])
def test_a_scale_means_the_largest_number_that_the_codes_of_its_scheme_reach(
    kind: str, most: float
) -> None:
    scales = scales_of(kind)
    scales.put(LAYER, f"{LAYER}.k_scale", 2, torch.tensor([0.5], dtype=torch.bfloat16))
    scales.put(LAYER, f"{LAYER}.v_scale", 2, torch.tensor([[[0.25]], [[2.0]]]))
    assert scales.largest(LAYER, "keys", range(2)) == (most / 2, most / 2)
    assert scales.largest(LAYER, "values", range(1, 2)) == (2 * most,)
    assert scales.largest("model.layers.2.self_attn", "keys", range(2)) == ()


def test_one_scale_for_both_serves_keys_and_values() -> None:
    scales = KVScales({}, "fp8")
    scales.put(LAYER, f"{LAYER}.kv_scale", 1, torch.tensor(0.5))
    assert scales.largest(LAYER, "keys", range(1)) == scales.largest(LAYER, "values", range(1))


@pytest.mark.parametrize(
    ("scale", "said"),
    [
        (torch.tensor([float("nan")]), "no positive numbers"),
        (torch.tensor([float("inf")]), "no positive numbers"),
        (torch.tensor([0.0]), "no positive numbers"),
        (torch.tensor([1.0, -1.0]), "no positive numbers"),
        (torch.ones(3), "one number, or one for each of 2 heads"),
        (torch.ones(1, dtype=torch.int8), "one number, or one for each of 2 heads"),
    ],
)
def test_a_corrupt_scale_is_refused_by_name(scale: torch.Tensor, said: str) -> None:
    with pytest.raises(ModelError, match=f"'{LAYER}.k_scale'.*{said}"):
        scales_of().put(LAYER, f"{LAYER}.k_scale", 2, scale)


def test_two_scales_that_contradict_each_other_are_refused() -> None:
    scales = scales_of()
    scales.put(LAYER, f"{LAYER}.k_scale", 1, torch.tensor(0.5))
    scales.put(LAYER, f"{LAYER}.k_proj.k_scale", 1, torch.tensor(0.5))
    with pytest.raises(ModelError, match="another scale for the same keys differs"):
        scales.put(LAYER, f"{LAYER}.kv_scale", 1, torch.tensor(0.75))


@pytest.mark.parametrize(("key", "value"), [("num_bits", 4), ("symmetric", False)])
def test_a_scheme_not_of_eight_bits_is_refused_only_where_its_scales_would_serve(
    key: str, value: object
) -> None:
    scales_of(kv_dtype="auto", **{key: value})
    with pytest.raises(ConfigError, match=r"kv_cache_scheme: .* cannot serve kv_dtype int8"):
        scales_of(kv_dtype="int8", **{key: value})


def written(kind: str, fp8: str, largest: tuple[float, ...], k: np.ndarray) -> np.ndarray:
    """What a store reads back."""
    store = TorchKVStore(HostRuntime(), TorchAllocator(), fp8=fp8)
    layer = LayerKV("a", 2, 32, 32, kind, k_largest=largest, v_largest=largest)
    store.allocate(KVPlan(4, 16, (KVGroup((layer,)),)))
    store.write_tokens("a", SLOTS, k, k)
    keys, values = store.read_tokens("a", SLOTS)
    np.testing.assert_array_equal(keys, values)
    return keys


@pytest.mark.parametrize(("kind", "fp8"), FLAVOURS)
def test_every_flavour_keeps_what_was_calibrated_and_clips_what_lies_beyond(
    kind: str, fp8: str
) -> None:
    k = np.random.default_rng(0).uniform(-3, 3, (len(SLOTS), 2, 32)).astype(np.float32)
    k[0, :, 0] = 3.0
    k[1, :, :2] = 0.0, -0.0
    most = np.array([3.0, 1.5], np.float32)
    got = written(kind, fp8, tuple(most.tolist()), k)
    want = np.clip(k, -most[:, None], most[:, None])
    step = most[:, None] / 127 / 2 if kind == "int8" else np.abs(want) / 16 + most[:, None] * 2e-5
    assert (np.abs(got - want) <= step + most[:, None] / 2**8).all()
    assert np.abs(got).max(axis=(0, 2)) == pytest.approx(most, rel=2**-7)
    assert not got[1, :, :2].any()


@pytest.mark.parametrize(("kind", "fp8"), FLAVOURS)
def test_codes_written_with_a_static_scale_share_it(kind: str, fp8: str) -> None:
    k = np.random.default_rng(1).normal(size=(len(SLOTS), 2, 32)).astype(np.float32)
    k[::2] *= 1e-3
    got = written(kind, fp8, (8.0, 8.0), k)
    dtype, most = kv_codes(kind, fp8)
    scale = torch.tensor(8.0 / most).to(torch.bfloat16).float()
    codes = (torch.from_numpy(k) / scale).clamp(-most, most)
    codes = (codes.round() if kind == "int8" else codes).to(dtype).float()
    np.testing.assert_array_equal(got, (codes * scale).numpy())


def logprobs(model: Path, **settings: object) -> np.ndarray:
    params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0)
    with LLM(str(model), device="cpu", dtype="float32", max_model_len=128, **settings) as llm:
        told = llm.generate([IDS], params)[0].prompt_logprobs
    assert told is not None
    return np.array([row.values[0] for row in told if row is not None])


@pytest.fixture
def with_scales(
    tiny: Callable[[str], Path], tmp_path: Path
) -> Callable[[Mapping[str, torch.Tensor]], Path]:
    """A tiny model's folder with more tensors."""

    def write(scales: Mapping[str, torch.Tensor]) -> Path:
        source, folder = tiny("llama"), tmp_path / "scaled"
        folder.mkdir()
        for file in source.iterdir():
            if file.name != WEIGHTS:
                (folder / file.name).write_bytes(file.read_bytes())
        save_file({**load_file(source / WEIGHTS), **scales}, folder / WEIGHTS)
        return folder

    return write


def all_layers(k: torch.Tensor, v: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        f"model.layers.{layer}.self_attn.{which}_scale": tensor.clone()
        for layer in range(3)
        for which, tensor in (("k", k), ("v", v))
    }


@pytest.mark.parametrize("attention", ["paged", "reference"])
def test_a_served_cache_obeys_the_scales_of_its_checkpoint(
    with_scales: Callable[[Mapping[str, torch.Tensor]], Path], attention: str
) -> None:
    wide = torch.tensor(8.0 / 448)
    model = with_scales(all_layers(wide, wide))
    exact = logprobs(model)
    held = logprobs(model, kv_dtype="fp8", attention=attention)
    own = logprobs(model, kv_dtype="int8", attention=attention)
    assert 0 < np.abs(held - exact).mean() <= 0.25
    assert 0 < np.abs(own - exact).mean() <= 0.25
    assert np.abs(held - own).max() > 0


def test_a_scale_too_small_for_the_model_is_seen_in_its_answers(
    with_scales: Callable[[Mapping[str, torch.Tensor]], Path],
) -> None:
    narrow = torch.full((2,), 1e-5)
    model = with_scales(all_layers(narrow, narrow))
    exact = logprobs(model)
    assert np.abs(logprobs(model, kv_dtype="fp8") - exact).mean() > 0.25


def test_a_corrupt_scale_ends_the_start_with_its_file_and_name(
    with_scales: Callable[[Mapping[str, torch.Tensor]], Path],
) -> None:
    model = with_scales({f"{LAYER}.v_scale": torch.tensor(float("nan"))})
    with pytest.raises(ModelError, match=rf"{WEIGHTS}: tensor '{LAYER}.v_scale' holds KV scales"):
        logprobs(model)
