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
@given(lengths=st.lists(st.tuples(contexts, contexts), min_size=2, max_size=12))
def test_prompts_in_company_lie_whole_in_a_rectangle_that_is_not_mostly_padding(
    name: str, lengths: list[tuple[int, int]]
) -> None:
    policy, ends = POLICIES[name], [max(pair) for pair in lengths]
    counts = [max(1, min(pair)) for pair in lengths]
    shape = StepShape(sum(counts), len(counts), 0, max(counts), max(ends), blocks(*ends))
    bucket = policy.select(shape)
    assert policy.admits(shape) == (bucket is not None)
    if bucket is not None:
        assert bucket in policy.buckets() and bucket.holds(shape)
        assert bucket.max_query == bucket.max_context >= max(ends)
        assert bucket.num_tokens <= min(500, 1.8 * max(sum(counts), 128 * len(counts)))


def test_whole_rows_gather_one_by_one_until_the_step_is_full() -> None:
    policy = StepBuckets(16, 2048, 4096, 128)
    for count in range(2, 17):
        shape = StepShape(128 * count, count, 0, 128, 128, count)
        bucket = policy.select(shape)
        assert bucket is not None and bucket.num_seqs < 2 * count
    assert policy.select(StepShape(1010, 2, 0, 1000, 1000, 9)) is None, "half of it is padding"
    assert policy.select(StepShape(2900, 3, 0, 1000, 1000, 24)) is None, "4 x 1024 is too much"
    last_chunk = policy.select(StepShape(300, 2, 0, 200, 250, 4))
    assert str(last_chunk) == "prefill-t512-s2-q256-c256-rect"


@names
def test_prompts_never_run_beside_decodes(name: str) -> None:
    for shape in (StepShape(9, 2, 1, 8, 8, 2), StepShape(130, 3, 1, 128, 128, 3)):
        assert not POLICIES[name].admits(shape) and POLICIES[name].select(shape) is None
    limits = CAPS.limits
    assert (limits.mix_prefill_decode, limits.max_prefill_seqs) == (False, None)
    assert limits.prefer_low_block_ids and CAPS.static_shapes and CAPS.block_multiple == 128


@names
def test_each_bucket_has_a_name_of_its_own(name: str) -> None:
    buckets = POLICIES[name].buckets()
    assert len({str(bucket) for bucket in buckets}) == len(set(buckets)) == len(buckets)
    assert buckets[0].num_tokens == max(bucket.num_tokens for bucket in buckets)
    together = [bucket for bucket in buckets if bucket.graph == "prefill" and bucket.num_seqs > 1]
    assert together and all(bucket.num_tokens <= 500 for bucket in together)


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
    paced = measure(policy, chats(200, 4096), 128, 2048, 4)
    assert paced.prompt_steps < found.prompt_steps < 200
    assert found.prompt_tokens[0] == sum(prompt for prompt, _ in chats(200, 4096))
    assert found.decode_rows[0] == sum(output for _, output in chats(200, 4096))
    assert 0.2 < shares["prompt tokens"] < 0.6
    assert 0 < shares["decode rows"] < 0.4 and 0 < shares["blocks read by decodes"] < 0.5
