"""Routed experts against the core's reference, which lets every expert see every token."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from inferplane.ops.reference.moe import fused_moe as reference
from inferplane.ops.reference.moe import moe_topk as chosen_there
from inferplane.testing.conformance.op_cases import op_cases
from inferplane_triton.kernels.experts import fused_moe, moe_topk
from inferplane_triton.tuning import target

LIMITS = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
@pytest.mark.parametrize(("experts", "choices"), [(128, 8), (5, 1), (60, 4), (8, 8)])
def test_the_best_experts_are_chosen(
    experts: int, choices: int, scoring: str, renormalize: bool, dtype: torch.dtype, device: str
) -> None:
    whole = torch.stack([torch.randperm(experts + 7, device=device) for _ in range(9)])
    logits = (whole.float() / experts * 6 - 3).to(dtype)[:, 3 : experts + 3]
    weights, ids = moe_topk(logits, choices, renormalize, scoring)
    wanted, there = chosen_there(logits, choices, renormalize, scoring)
    assert ids.dtype == torch.int32 and weights.dtype == torch.float32
    torch.testing.assert_close(weights, wanted, atol=1e-6, rtol=1e-5)
    same = logits.gather(1, ids.long()) == logits.gather(1, there.long())  # equal ones may differ
    assert same.all()
    assert all(len(set(row)) == choices for row in ids.tolist())


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_no_numbers_harm_their_own_token_alone(
    bad: float, scoring: str, device: str
) -> None:
    logits = torch.randn(3, 6, device=device)
    logits[1] = bad
    weights, ids = moe_topk(logits, 4, True, scoring)
    assert int(ids.min()) >= 0 and int(ids.max()) < 6
    others = torch.tensor([0, 2], device=device)
    wanted, there = chosen_there(logits[others], 4, True, scoring)
    torch.testing.assert_close(weights[others], wanted, atol=1e-6, rtol=1e-5)
    assert torch.equal(ids[others], there)
    assert moe_topk(logits[:0], 4, True, scoring)[0].shape == (0, 4)


def routed(tokens: int, experts: int, choices: int, device: str) -> tuple[Tensor, Tensor]:
    ids = torch.rand(tokens, experts, device=device).argsort(-1)[:, :choices].int()
    shares = torch.rand(tokens, choices, device=device)
    return shares / shares.sum(-1, keepdim=True), ids


def check(
    shape: tuple[int, int, int], shares: Tensor, ids: Tensor, dtype: torch.dtype, act: str
) -> Tensor:
    experts, size, inner = shape
    device = ids.device
    x = torch.randn(len(ids), size + 8, device=device).to(dtype)[:, :size]
    w13 = (torch.randn(experts, 2 * inner, size, device=device) / size**0.5).to(dtype)
    w2 = (torch.randn(experts, size, inner, device=device) / inner**0.5).to(dtype)
    got = fused_moe(x, w13, w2, shares, ids, act)
    wanted = reference(x.double(), w13.double(), w2.double(), shares, ids, act).double()
    assert got.dtype == dtype and got.shape == x.shape
    assert float((got.double() - wanted).norm() / wanted.norm()) < LIMITS[dtype]
    return got


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize(
    ("tokens", "shape", "choices"),
    [(1, (8, 64, 32), 2), (7, (5, 33, 7), 1), (40, (4, 96, 48), 3), (3, (128, 32, 16), 8)],
)
def test_each_token_gets_the_sum_of_its_experts(
    tokens: int, shape: tuple[int, int, int], choices: int, dtype: torch.dtype, device: str
) -> None:
    check(shape, *routed(tokens, shape[0], choices, device), dtype, "silu")


@pytest.mark.parametrize("kind", ["T=7", "T=13"])
def test_the_kit_s_cases_hold(kind: str, device: str) -> None:
    for case in (case for case in op_cases("fused_moe/1") if kind in case.name):
        moved = [
            x.to(device, torch.float32 if x.is_floating_point() else x.dtype)
            for x in case.arguments[:-1]
        ]
        rows, w13, w2, *routes = moved
        got = fused_moe(*moved, case.arguments[-1]).double()
        wanted = reference(rows.double(), w13.double(), w2.double(), *routes, case.arguments[-1])
        error = float((got - wanted).norm() / wanted.norm())
        assert error < LIMITS[torch.float32], case.name


def test_all_tokens_may_choose_the_same_experts(device: str) -> None:
    ids = torch.tensor([[5, 0]], dtype=torch.int32, device=device).repeat(50, 1)
    check((6, 32, 40), torch.rand(50, 2, device=device), ids, torch.float32, "gelu")


def test_experts_whose_number_is_no_power_of_two_and_long_routes(device: str) -> None:
    check((60, 16, 8), *routed(280, 60, 4, device), torch.float32, "silu")


def test_results_repeat_to_the_bit_and_no_token_is_no_work(device: str) -> None:
    shares, ids = routed(33, 8, 2, device)
    torch.manual_seed(1)
    first = check((8, 64, 32), shares, ids, torch.float16, "gelu")
    torch.manual_seed(1)
    assert torch.equal(check((8, 64, 32), shares, ids, torch.float16, "gelu"), first)
    empty = torch.empty(0, 64, device=device)
    w13, w2 = torch.empty(8, 64, 64, device=device), torch.empty(8, 64, 32, device=device)
    assert fused_moe(empty, w13, w2, shares[:0], ids[:0], "silu").shape == (0, 64)


@pytest.mark.skipif(target().backend == "interpreter", reason="there is nothing to capture")
def test_a_captured_launch_follows_other_routes(device: str) -> None:
    shares, ids = routed(20, 16, 4, device)
    x = torch.randn(20, 128, device=device)
    w13, w2 = torch.randn(16, 128, 128, device=device), torch.randn(16, 128, 64, device=device)
    fused_moe(x, w13, w2, shares, ids, "silu")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = fused_moe(x, w13, w2, shares, ids, "silu")
    for _ in range(3):
        ids.copy_(routed(20, 16, 4, device)[1])
        graph.replay()
        wanted = reference(x.double(), w13.double(), w2.double(), shares, ids, "silu")
        assert float((got.double() - wanted).norm() / wanted.norm()) < LIMITS[torch.float32]
