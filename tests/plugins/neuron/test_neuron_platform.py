"""What the Neuron platform asks of a configuration, and which programs it will compile."""

from __future__ import annotations

from dataclasses import replace

import pytest

from inferplane.errors import ConfigError
from inferplane.interfaces import EngineConfig, ModelShape, Probe, StepShape, Topology
from inferplane_neuron.platform import Neuron, blocks_of

MODEL = ModelShape("LlamaForCausalLM", 2, 64, 4, 2, 16, 256, 512, "float32")
PLATFORM = Neuron()
CAPS = PLATFORM.capabilities(Probe(True, "", arch="trn2"), MODEL)


@pytest.mark.parametrize(
    ("options", "size"), [({}, 128), ({"kv": "blocks"}, 128), ({"kv": "regions"}, 1000)]
)
def test_kv_is_in_blocks_or_regions_and_a_step_holds_a_chunk_of_a_prompt(
    options: dict[str, str], size: int
) -> None:
    config = EngineConfig("m", max_model_len=1000, max_batched_tokens=96, options=options)
    changes = {c.key: c.value for c in PLATFORM.resolve(config, CAPS, MODEL)}
    assert changes == {"block_size": size}
    settled = replace(config, block_size=size)
    assert PLATFORM.resolve(settled, CAPS, MODEL) == ()
    assert blocks_of(settled) * size >= 1000
    prefills = [b for b in PLATFORM.shapes(settled, CAPS).buckets() if b.graph == "prefill"]
    assert [bucket.max_query for bucket in prefills] == [96, 32]


def test_what_the_graph_does_not_compute_is_refused_with_what_it_does() -> None:
    with pytest.raises(ConfigError, match="compiles LlamaForCausalLM.*not Gemma3ForCausalLM"):
        PLATFORM.resolve(EngineConfig("m"), CAPS, replace(MODEL, architecture="Gemma3ForCausalLM"))
    with pytest.raises(ConfigError, match="no gptq checkpoints yet: take one of bfloat16"):
        PLATFORM.resolve(EngineConfig("m"), CAPS, replace(MODEL, quantization="gptq"))
    with pytest.raises(ConfigError, match="'pages': it takes blocks or regions"):
        PLATFORM.resolve(EngineConfig("m", options={"kv": "pages"}), CAPS, MODEL)


def test_blocks_of_gguf_are_widened_and_the_user_is_told() -> None:
    model, config = replace(MODEL, quantization="gguf"), EngineConfig("m", block_size=128)
    (change,) = PLATFORM.resolve(config, CAPS, model)
    assert (change.key, change.value) == ("quantization", "none") and "widened" in change.reason
    assert PLATFORM.resolve(replace(config, quantization="none"), CAPS, model) == ()


def test_cores_that_share_a_model_are_one_process_which_takes_no_others() -> None:
    config = EngineConfig("m", tensor_parallel=4)
    assert PLATFORM.topology(config, CAPS) == Topology(1, 4)
    assert PLATFORM.worker_env(config, 0) == {"NEURON_RT_NUM_CORES": "4"}


def test_buckets_are_few_and_prompts_come_alone() -> None:
    policy = PLATFORM.shapes(EngineConfig("m", max_num_seqs=32, max_model_len=4096), CAPS)
    assert len(policy.buckets()) == 8
    assert CAPS.static_shapes and CAPS.limits.max_prefill_seqs == 1
    assert not CAPS.limits.mix_prefill_decode and CAPS.limits.chunked_prefill
    prompt = StepShape(300, 1, 0, 300, 300, 1)
    assert str(policy.select(prompt)) == "prefill-t512-s1-q512-b32-rect"
    assert not policy.admits(StepShape(301, 2, 1, 300, 300, 2)), "mixed"
    assert not policy.admits(StepShape(60, 2, 0, 30, 30, 2)), "two prompts"


def test_the_device_draws_among_as_many_as_its_top_k_gives_and_the_host_the_rest() -> None:
    assert CAPS.sampler.params == ("temperature", "top_k", "top_p", "min_p", "seed")
    assert CAPS.sampler.max_top_k == 256 and CAPS.sampler.host_rows
