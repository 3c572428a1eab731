from dataclasses import replace

import pytest

from inferplane.errors import ConfigError
from inferplane.interfaces import Capabilities, Change, EngineConfig, ModelShape, SchedulerLimits
from inferplane.launch import LaunchSettings, SchedulerConfig
from inferplane.settle import apply_changes, check_settings, core_changes

MODEL = ModelShape("Llama", 2, 64, 4, 2, 16, 1000, 2048, "bfloat16")
CHUNKS = SchedulerLimits(chunked_prefill=True)


def settled(config: EngineConfig, caps: Capabilities, **scheduler: object) -> EngineConfig:
    """The configuration after the core's changes, which must not ask for more of them."""
    settings = LaunchSettings(config, SchedulerConfig(**scheduler))  # type: ignore[arg-type]
    after = apply_changes(config, core_changes(settings, caps, MODEL), "the core")
    assert not core_changes(replace(settings, config=after), caps, MODEL)
    return after


def test_auto_takes_the_model_s_dtype_where_the_device_has_it() -> None:
    caps = Capabilities(compute_dtypes=("float16", "bfloat16"), limits=CHUNKS)
    assert settled(EngineConfig("m"), caps).dtype == "bfloat16"


def test_auto_takes_the_device_s_first_dtype_otherwise() -> None:
    caps = Capabilities(compute_dtypes=("float16", "float32"), limits=CHUNKS)
    assert settled(EngineConfig("m"), caps).dtype == "float16"


def test_the_context_never_exceeds_the_model_s() -> None:
    caps = Capabilities(limits=CHUNKS)
    assert settled(EngineConfig("m", max_model_len=9000), caps).max_model_len == 2048
    assert settled(EngineConfig("m", max_model_len=100), caps).max_model_len == 100
    assert settled(EngineConfig("m", max_model_len=0), caps).max_model_len == 2048


def test_limits_of_the_device_hold() -> None:
    caps = Capabilities(limits=replace(CHUNKS, max_num_seqs=4, max_step_tokens=256))
    config = settled(EngineConfig("m"), caps)
    assert (config.max_num_seqs, config.max_batched_tokens) == (4, 256)


@pytest.mark.parametrize("by", ["device", "user"])
def test_prompts_that_are_never_cut_need_a_step_that_takes_the_longest(by) -> None:
    caps = Capabilities(limits=SchedulerLimits(chunked_prefill=by == "user"))
    config = EngineConfig("m", max_model_len=2000, max_batched_tokens=512)
    after = settled(config, caps, chunked_prefill=by == "device")
    assert (after.max_batched_tokens, after.max_model_len) == (2000, 2000)


def test_a_step_that_cannot_grow_limits_the_context_instead() -> None:
    caps = Capabilities(limits=SchedulerLimits(max_step_tokens=512))
    after = settled(EngineConfig("m", max_model_len=2000), caps)
    assert (after.max_batched_tokens, after.max_model_len) == (512, 512)


def test_every_change_says_why() -> None:
    settings = LaunchSettings(EngineConfig("m", max_model_len=9000))
    assert all(change.reason for change in core_changes(settings, Capabilities(), MODEL))


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ({"dtype": "int4"}, "no dtype 'int4' .accepted: auto, float32"),
        ({"kv_dtype": "fp8"}, "no kv_dtype 'fp8'"),
        ({"block_size": 24}, "block_size 24 is no multiple of 16"),
        ({"options": {"fast": "1"}}, "no option 'fast' .known: none"),
    ],
)
def test_settings_the_device_does_not_know_are_refused(setting, match) -> None:
    with pytest.raises(ConfigError, match=match):
        check_settings("acme", EngineConfig("m", **setting), Capabilities())


def test_a_change_of_no_setting_names_its_owner() -> None:
    with pytest.raises(ConfigError, match="plugin acme changes 'speed'"):
        apply_changes(EngineConfig("m"), (Change("speed", 1, "more"),), "plugin acme")
