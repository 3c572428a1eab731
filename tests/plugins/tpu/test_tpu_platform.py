"""What the TPU platform asks of a configuration, and which programs it will compile."""

from __future__ import annotations

from dataclasses import replace

import pytest

from inferplane.errors import ConfigError
from inferplane.interfaces import (
    AttentionSpec,
    EngineConfig,
    ModelShape,
    Probe,
    StepShape,
    Topology,
)
from inferplane_tpu.attention.paged import GatheredAttention
from inferplane_tpu.attention.ragged import RaggedAttention
from inferplane_tpu.hosted import HostedTpu
from inferplane_tpu.platform import Tpu

MODEL = ModelShape("LlamaForCausalLM", 2, 64, 4, 2, 16, 256, 512, "float32")
PLATFORM = Tpu()
CHIP = PLATFORM.capabilities(Probe(True, "", arch="v6e"), MODEL)
HOST = PLATFORM.capabilities(Probe(True, "", arch="host"), MODEL)
SPEC = AttentionSpec(8, 2, 64, 64, "bfloat16", "bfloat16", 0.125, 16)


def changes(config: EngineConfig, caps=CHIP) -> dict[str, object]:
    found = PLATFORM.resolve(config, caps, MODEL)
    settled = replace(config, **{change.key: change.value for change in found})
    assert PLATFORM.resolve(settled, caps, MODEL) == ()
    return {change.key: change.value for change in found}


def test_page_tables_fit_into_a_chip_s_scalar_memory() -> None:
    assert (
        changes(EngineConfig("m", max_num_seqs=128, max_model_len=4096, attention="ragged")) == {}
    )
    long = EngineConfig("m", max_num_seqs=256, max_model_len=32_768, attention="ragged")
    assert changes(long) == {"block_size": 64}
    assert 4 * 256 * (32_768 // 64) <= 1 << 19
    with pytest.raises(ConfigError, match=r"block_size 32.*multiples of 16 from 64"):
        PLATFORM.resolve(replace(long, block_size=32), CHIP, MODEL)


def test_steps_are_short_only_where_each_token_gathers_its_context() -> None:
    config = EngineConfig("m", max_num_seqs=8, max_model_len=4096, max_batched_tokens=2048)
    assert changes(replace(config, attention="ragged")) == {}
    assert changes(config, HOST) == {"max_batched_tokens": 128}
    assert changes(replace(config, max_num_seqs=200), HOST) == {"max_batched_tokens": 200}
    assert changes(replace(config, max_model_len=256), HOST) == {}


def test_several_chips_take_the_attention_that_divides() -> None:
    divides = replace(MODEL, num_heads=8, num_kv_heads=4)
    (change,) = PLATFORM.resolve(EngineConfig("m", tensor_parallel=4), CHIP, divides)[:1]
    assert (change.key, change.value) == ("attention", "gathered")


def test_the_kernel_comes_first_where_it_runs_and_says_why_not_elsewhere() -> None:
    assert CHIP.prefer["attention"] == ("ragged", "gathered")
    assert "no whole tiles" in RaggedAttention.supports(replace(SPEC, num_kv_heads=3), CHIP)[0]
    assert RaggedAttention.supports(SPEC, CHIP) == ()
    assert "runs none" in RaggedAttention.supports(SPEC, HOST)[0]
    assert RaggedAttention.supports(replace(SPEC, sinks=True), CHIP) == (
        "knows no attention sinks",
    )
    assert GatheredAttention.supports(replace(SPEC, sinks=True), HOST) == ()
    old = PLATFORM.capabilities(Probe(True, "", arch="v2/v3"), MODEL)
    assert RaggedAttention.supports(SPEC, old)


def test_layers_that_pages_cannot_hold_are_refused_with_reasons() -> None:
    (reason,) = GatheredAttention.supports(replace(SPEC, head_dim_v=32), HOST)
    assert "cannot share a page" in reason
    (reason,) = GatheredAttention.supports(replace(SPEC, kv_dtype="int8"), HOST)
    assert "int8" in reason


def test_one_bucket_serves_prompts_and_answers_together() -> None:
    policy = PLATFORM.shapes(EngineConfig("m", max_num_seqs=32, max_batched_tokens=512), CHIP)
    assert len(policy.buckets()) == 12
    mixed = StepShape(40, 9, 8, 32, 300, 30)
    assert str(policy.select(mixed)) == "mixed-t64-s32"
    assert str(policy.select(StepShape(3, 3, 3, 1, 900, 60))) == "mixed-t16-s8"


def test_what_is_ragged_is_drawn_on_the_host_and_the_rest_on_the_device() -> None:
    assert CHIP.sampler.params == ("temperature", "top_k", "top_p", "min_p", "seed")
    assert CHIP.sampler.host_rows and CHIP.sampler.max_logprobs == 0


def test_several_chips_are_one_process_that_divides_layers_by_itself() -> None:
    config = EngineConfig("m", tensor_parallel=4)
    divides = replace(MODEL, num_heads=8, num_kv_heads=4)
    PLATFORM.resolve(config, CHIP, divides)
    assert PLATFORM.topology(config, CHIP) == Topology(1, 4)


@pytest.mark.parametrize(
    ("changed", "attention", "reason"),
    [
        ({"num_heads": 6}, "auto", "6 attention heads do not divide over 4 chips"),
        ({"num_heads": 8, "num_kv_heads": 2}, "auto", "2 KV heads do not divide over 4 chips"),
        ({"num_heads": 8, "num_kv_heads": 4, "quantization": "gptq"}, "auto", "on one chip"),
        ({"num_heads": 8, "num_kv_heads": 4}, "ragged", "accepted: gathered"),
    ],
)
def test_what_cannot_be_divided_over_chips_is_refused(changed, attention, reason) -> None:
    config = EngineConfig("m", tensor_parallel=4, attention=attention)
    with pytest.raises(ConfigError, match=reason):
        PLATFORM.resolve(config, CHIP, replace(MODEL, **changed))


def test_the_client_of_the_worker_is_named_as_data() -> None:
    config = EngineConfig("m")
    assert PLATFORM.worker_env(config, 0) == {"PJRT_DEVICE": "TPU"}
    hosted = {"PJRT_DEVICE": "CPU", "CPU_NUM_DEVICES": "1"}
    assert HostedTpu().worker_env(config, 0) == hosted


def test_the_stand_in_is_never_chosen_by_itself_and_says_what_it_is() -> None:
    probe = HostedTpu().probe({})
    assert probe.score == 0
    assert "host processor" in probe.reason
