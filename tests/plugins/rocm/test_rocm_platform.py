"""What the planner hears of each generation of AMD GPUs, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from inferplane.errors import ConfigError
from inferplane.interfaces import EngineConfig, ModelShape, Probe
from inferplane.plugins import Plugins, find_plugins
from inferplane.testing.fake_sdk import write_sdk
from inferplane_rocm.attention.prompts import find_prompt_attention, prompt_problem
from inferplane_rocm.platform import Rocm

MODEL = ModelShape("LlamaForCausalLM", 2, 64, 4, 2, 16, 256, 512, "bfloat16")
PLATFORM = Rocm()
CAPS = PLATFORM.capabilities(Probe(True, "", arch="gfx942"), MODEL)


@pytest.mark.parametrize(
    ("arch", "flavour", "first"),
    [
        ("gfx90a", "none", "bfloat16"),
        ("gfx942", "e4m3fnuz", "bfloat16"),
        ("gfx950", "e4m3fn", "bfloat16"),
        ("gfx1100", "none", "bfloat16"),
        ("gfx1201", "e4m3fn", "bfloat16"),
        ("", "none", "float16"),
    ],
)
def test_number_formats_follow_the_generation(arch: str, flavour: str, first: str) -> None:
    caps = PLATFORM.capabilities(Probe(bool(arch), "", arch=arch), None)
    assert (caps.fp8, caps.compute_dtypes[0], caps.labels) == (flavour, first, ("triton",))


def test_the_shared_kernels_and_its_own_are_offered() -> None:
    plugins = Plugins(find_plugins(["rocm", "triton"]))
    labels = ("rocm", *CAPS.labels)

    def offered(kind: str) -> dict[str, str]:
        return {e.name: e.owner for e in plugins.catalogue[kind] if e.answers_to(labels)}

    assert offered("attention")["triton"] == "triton"
    assert {"rms_norm/1", "rotary/1", "linear/1", "sample/1"} <= set(offered("kernels"))
    assert offered("quantization_kernels")["rocm_fp8"] == "rocm"


def test_steps_overlap_and_small_ones_are_captured() -> None:
    config = EngineConfig("m", max_num_seqs=8)
    assert CAPS.limits.async_steps == 1 and not CAPS.static_shapes
    assert {b.num_seqs for b in PLATFORM.shapes(config, CAPS).buckets()} >= {1, 2, 4, 8}
    eager = EngineConfig("m", options={"graphs": "off"})
    assert PLATFORM.shapes(eager, CAPS).buckets() == ()
    assert PLATFORM.topology(config, CAPS).placement == "inline"
    assert PLATFORM.topology(EngineConfig("m", tensor_parallel=4), CAPS).processes == 4


def test_options_are_checked_by_name_and_value() -> None:
    assert PLATFORM.resolve(EngineConfig("m"), CAPS, MODEL) == ()
    with pytest.raises(ConfigError, match="device rocm: it takes on or off"):
        PLATFORM.resolve(EngineConfig("m", options={"graphs": "some"}), CAPS, MODEL)
    with pytest.raises(ConfigError, match="prompts='fast'.*triton or aiter"):
        PLATFORM.resolve(EngineConfig("m", options={"prompts": "fast"}), CAPS, MODEL)
    with pytest.raises(ConfigError, match="prompts=aiter.*amd-aiter is not installed"):
        PLATFORM.resolve(EngineConfig("m", options={"prompts": "aiter"}), CAPS, MODEL)


def test_vendor_attention_is_taken_only_where_it_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_prompt_attention("gfx942", 128, "bfloat16") is None, "it is not installed"
    source = "def flash_attn_varlen_func(q, k, v, *sizes, **how): return (sizes, how), 'sums'"
    monkeypatch.syspath_prepend(str(write_sdk(tmp_path / "site", {"aiter": source})))
    for wanted, word in (
        (("gfx1100", 128, "bfloat16"), "this is gfx1100"),
        (("gfx942", 80, "bfloat16"), "not 80"),
        (("gfx942", 128, "float32"), "not float32"),
    ):
        assert find_prompt_attention(*wanted) is None and word in prompt_problem(*wanted)
    assert prompt_problem("gfx942", 128, "bfloat16") == ""
    attend = find_prompt_attention("gfx942", 128, "bfloat16")
    assert attend is not None
    got: object = attend("q", "k", "v", "starts", 7, 0.5)  # type: ignore[arg-type]  # a fake's words
    assert got == (("starts", "starts", 7, 7), {"softmax_scale": 0.5, "causal": True})
