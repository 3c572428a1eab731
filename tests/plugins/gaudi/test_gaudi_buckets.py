"""Buckets of the Gaudi plugin: every step that may run has one, and what they cost in padding."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferplane.errors import ConfigError
from inferplane.interfaces import EngineConfig, ModelShape, Probe, StepShape
from inferplane_gaudi.buckets import LADDERS, StepBuckets
from inferplane_gaudi.padding import chats, measure
from inferplane_gaudi.platform import Gaudi

PLATFORM = Gaudi()
MODEL = ModelShape("LlamaForCausalLM", 2, 64, 4, 2, 16, 256, 512, "float32")
CAPS = PLATFORM.capabilities(Probe(True, "", arch="gaudi2"), MODEL)
POLICIES = {name: StepBuckets(12, 500, 1000, 128, ladder) for name, ladder in LADDERS.items()}
names = pytest.mark.parametrize("name", list(LADDERS))
contexts = st.integers(1, 1000)


def blocks(*lengths: int) -> int:
    return sum(-(-length // 128) for length in lengths)


@names
@given(lengths=st.lists(contexts, min_size=1, max_size=12))
def test_every_decode_has_a_bucket_that_holds_it(name: str, lengths: list[int]) -> None:
    count = len(lengths)
    shape = StepShape(count, count, count, 1, max(lengths), blocks(*lengths))
    bucket = POLICIES[name].select(shape)
    assert bucket in POLICIES[name].buckets() and bucket.holds(shape)
    assert bucket.graph == "decode" and POLICIES[name].admits(shape)


@names
@given(context=contexts, query=st.integers(1, 500))
def test_every_prompt_alone_has_a_bucket_that_holds_it(name: str, context: int, query: int) -> None:
    query = min(query, context)
    shape = StepShape(query, 1, 0, query, context, blocks(context))
    bucket = POLICIES[name].select(shape)
    assert bucket in POLICIES[name].buckets() and bucket.holds(shape)
    begins = query == context
    assert bool(bucket.max_context) == begins and bool(bucket.context_blocks) == (not begins)


@names
def test_prompts_never_run_beside_decodes_or_each_other(name: str) -> None:
    for shape in (StepShape(9, 2, 1, 8, 8, 2), StepShape(16, 2, 0, 8, 8, 2)):
        assert not POLICIES[name].admits(shape) and POLICIES[name].select(shape) is None
    limits = CAPS.limits
    assert (limits.mix_prefill_decode, limits.max_prefill_seqs) == (False, 1)
    assert limits.prefer_low_block_ids and CAPS.static_shapes and CAPS.block_multiple == 128


@names
def test_each_bucket_has_a_name_of_its_own(name: str) -> None:
    buckets = POLICIES[name].buckets()
    assert len({str(bucket) for bucket in buckets}) == len(set(buckets)) == len(buckets)
    assert buckets[0].num_tokens == max(bucket.num_tokens for bucket in buckets)


def test_options_are_checked_before_anything_is_loaded() -> None:
    config = EngineConfig("m")
    assert PLATFORM.resolve(config, CAPS, MODEL) == ()
    for settings, told in (
        ({"options": {"buckets": "fine"}}, "'fine': it takes exponential or linear"),
        ({"options": {"recipe_cache": "a,b"}}, "a comma ends the path"),
        ({"tensor_parallel": 4}, "does not divide 2 KV heads"),
    ):
        with pytest.raises(ConfigError, match=told):
            PLATFORM.resolve(replace(config, **settings), CAPS, MODEL)  # type: ignore[arg-type]


@names
def test_padding_of_a_mix_of_chats_stays_within_what_the_readme_says(name: str) -> None:
    policy = StepBuckets(128, 2048, 4096, 128, LADDERS[name])
    found = measure(policy, chats(200, 4096), 128, 2048)
    shares = found.shares()
    assert found.prompt_tokens[0] == sum(prompt for prompt, _ in chats(200, 4096))
    assert found.decode_rows[0] == sum(output for _, output in chats(200, 4096))
    assert 0.2 < shares["prompt tokens"] < 0.6
    assert 0 < shares["decode rows"] < 0.4 and 0 < shares["blocks read by decodes"] < 0.5
