"""The CPU's routed experts: right for every routing, and unread where nothing was routed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM

from inferplane.llm import LLM
from inferplane.sampling_params import SamplingParams
from inferplane.testing.tiny import write_tiny_model
from inferplane_cpu.kernels.moe import fused_moe

EXPERTS, SIZE, INNER = 6, 24, 10
ROUTINGS = {
    "one token": [[4, 1]],
    "all to the same": [[5, 0]] * 7,
    "each to others": [[0, 1], [2, 3], [4, 5]],
    "in any order": [[3, 0], [0, 3], [1, 3], [3, 5]],
    "no token": [],
}


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stacks(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    w13, w2 = randn(EXPERTS, 2 * INNER, SIZE, seed=1), randn(EXPERTS, SIZE, INNER, seed=2)
    return (w13 / SIZE**0.5).to(dtype), (w2 / INNER**0.5).to(dtype)


def routed(routing: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """x, shares and ids."""
    ids = torch.tensor(ROUTINGS[routing], dtype=torch.int32).reshape(-1, 2)
    shares = randn(len(ids), 2, seed=3).softmax(-1)
    return randn(len(ids), SIZE, seed=4).to(dtype), shares, ids


def token_by_token(x: Tensor, w13: Tensor, w2: Tensor, w: Tensor, ids: Tensor, act: str) -> Tensor:
    """In float64."""
    total = torch.zeros(x.shape, dtype=torch.float64)
    for row, chosen in enumerate(ids.tolist()):
        for share, expert in zip(w[row].double(), chosen, strict=True):
            gate, up = (w13[expert].double() @ x[row].double()).chunk(2)
            gate = F.silu(gate) if act == "silu" else F.gelu(gate, approximate="tanh")
            total[row] += share * (w2[expert].double() @ (gate * up))
    return total


@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("act", ["silu", "gelu"])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_chosen_experts_sum_as_in_float64(
    routing: str, act: str, dtype: torch.dtype, limit: float
) -> None:
    w13, w2 = stacks(dtype)
    x, shares, ids = routed(routing, dtype)
    got = fused_moe(x, w13, w2, shares, ids, act)
    assert got.dtype is dtype
    expected = token_by_token(x, w13, w2, shares, ids, act)
    torch.testing.assert_close(got.double(), expected, atol=limit, rtol=limit)


@pytest.mark.parametrize("routing", ["one token", "all to the same"])
def test_an_expert_that_no_token_chose_is_not_computed(routing: str) -> None:
    w13, w2 = stacks(torch.float32)
    x, shares, ids = routed(routing, torch.float32)
    expected = fused_moe(x, w13, w2, shares, ids, "silu")
    for expert in set(range(EXPERTS)) - set(ids.flatten().tolist()):
        w13[expert], w2[expert] = torch.nan, torch.nan
    assert torch.equal(fused_moe(x, w13, w2, shares, ids, "silu"), expected)


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe"])
def test_models_of_experts_continue_as_in_transformers(kind: str, tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / kind, kind)
    prompt = [7, 41, 90, 12, 133, 5, 66]
    peer = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    expected = peer.generate(
        torch.tensor([prompt]), max_new_tokens=12, min_new_tokens=12, do_sample=False
    )
    params = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)
    with LLM(str(folder), device="cpu", dtype="float32") as llm:
        got = llm.generate([prompt], params)[0].token_ids
        fallbacks = llm._executor.stats().fallbacks
    assert list(got) == expected[0, len(prompt) :].tolist()
    assert fallbacks["step program"] > 0  # experts run op by op, and that is counted
