"""A whole engine on Triton kernels yields the tokens of the core's references, in float32."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from inferplane.engine.engine import Engine
from inferplane.engine.placement import make_executor, make_shapes
from inferplane.interfaces import EngineConfig
from inferplane.launch import LaunchSettings
from inferplane.planning import make_plan
from inferplane.request import Request
from inferplane.sampling_params import SamplingParams

PLUGIN = """
from inferplane.hookspecs import Register, hookimpl
from inferplane.interfaces import Capabilities, Platform, Probe, SamplerCaps, SchedulerLimits
from inferplane.interfaces import Topology
from inferplane.shapes import DecodeLadder

INTERFACE_VERSION = (1, 0)


@hookimpl
def register_platforms(register: Register) -> None:
    register("{name}", "{name}:Device")


class Device(Platform):
    def probe(self, env):
        return Probe(True, "a processor", score=5, device_count=1)

    def capabilities(self, probe, model):
        limits = SchedulerLimits(
            max_prefill_seqs=None, mix_prefill_decode=True, chunked_prefill=True, async_steps=1,
            prefix_cache=True,
        )
        return Capabilities(labels={labels}, compute_dtypes=("float32",), limits=limits)

    def topology(self, config, caps):
        return Topology(placement="inline")

    def shapes(self, config, caps):
        return DecodeLadder(config.max_num_seqs)
"""
QWEN = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 300,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "attention_bias": False,
    "torch_dtype": "float32",
}


def tokens_of(folder: Path, site: Path, name: str, labels: tuple[str, ...]) -> list[list[int]]:
    """Greedy tokens of a few requests that arrive together and outnumber the lanes."""
    (site / f"{name}.py").write_text(PLUGIN.format(name=name, labels=labels))
    config = EngineConfig(
        model=str(folder),
        device=name,
        dtype="float32",
        max_model_len=128,
        max_num_seqs=4,
        max_batched_tokens=32,
    )
    plugins = ("inferplane_triton.plugin", name)
    plan = make_plan(LaunchSettings(config, plugins=plugins, load_format="dummy"), {})
    executor = make_executor(plan, {})
    executor.load(lambda *told: None)
    kv = executor.plan_kv()
    executor.start(kv, lambda *told: None)
    assert ("attention" in executor.stats().fallbacks) == (not labels)
    engine = Engine(executor, kv, plan, make_shapes(plan), time.monotonic, b"root")
    found: dict[str, list[int]] = {}
    for number, length in enumerate((1, 40, 17, 5, 9)):
        ids = tuple((7 * number + 13 * place) % 290 for place in range(length))
        params = SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True, seed=0)
        engine.add(Request(request_id=str(number), prompt_ids=ids, sampling=params))
        found[str(number)] = []
    while engine.busy:
        engine.step()
        for output in engine.outputs:
            assert not output.error
            found[output.request_id] += output.token_ids
        engine.outputs.clear()
    executor.close()
    return list(found.values())


def test_tokens_are_those_of_the_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    if device != "cpu":
        pytest.skip("on a GPU the platform itself is tested, by the conformance kit")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(QWEN))
    fast = tokens_of(tmp_path, tmp_path, "triton_device", ("triton",))
    assert fast == tokens_of(tmp_path, tmp_path, "reference_device", ())
    assert all(len(tokens) == 4 for tokens in fast)
