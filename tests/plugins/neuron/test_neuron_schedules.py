"""500 steps of the real scheduler on the emulation; `scripts/test-neuron` asks for them."""

from __future__ import annotations

import os

import pytest

from inferplane.testing.schedules import run_schedules

pytestmark = pytest.mark.skipif(
    not os.environ.get("INFERPLANE_TEST_SCHEDULES"), reason="scripts/test-neuron asks for it"
)


def test_random_schedules_on_two_cores_share_prefixes_and_compile_nothing_late(tiny_model) -> None:
    model = tiny_model("llama")
    run = run_schedules(
        "neuron-emulated", ["inferplane_neuron.emulation"], model, 500, alike=True,
        block_size=16, max_num_seqs=4, max_model_len=256, max_batched_tokens=64, tensor_parallel=2,
    )  # fmt: skip
    run.check(model)
    prompts = sum(len(request.prompt_ids) for request in run.requests.values())
    assert run.cached_tokens > prompts / 2
