"""Experts with a kernel each: who sees which tokens, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from inferplane.layers.packed_experts import PackedExperts
from inferplane.ops.reference.activation import silu_mul
from inferplane.ops.reference.moe import fused_moe

EXPERTS, SIZE, INNER = 6, 16, 8


def stacks() -> tuple[Tensor, Tensor]:
    make = torch.Generator().manual_seed(0)
    gate_up = torch.randn(EXPERTS, 2 * INNER, SIZE, generator=make) / SIZE**0.5
    return gate_up, torch.randn(EXPERTS, SIZE, INNER, generator=make) / INNER**0.5


def routed(tokens: int, choices: int) -> tuple[Tensor, Tensor, Tensor]:
    make = torch.Generator().manual_seed(tokens)
    ids = torch.rand(tokens, EXPERTS, generator=make).argsort(-1)[:, :choices].int()
    return torch.randn(tokens, SIZE, generator=make), torch.rand(tokens, choices), ids


def experts(sorts: bool, seen: list[tuple[int, int]]) -> PackedExperts:
    """Notes (expert, rows) of each first product."""

    def first(expert: int, matrix: Tensor) -> Callable[[Tensor], Tensor]:
        def multiply(x: Tensor) -> Tensor:
            seen.append((expert, len(x)))
            return F.linear(x, matrix.to(x.dtype))

        return multiply

    gate_up, down = stacks()
    return PackedExperts(
        [first(expert, matrix) for expert, matrix in enumerate(gate_up)],
        [lambda x, matrix=matrix: F.linear(x, matrix.to(x.dtype)) for matrix in down],
        silu_mul,
        sorts,
    )


@pytest.mark.parametrize("sorts", [False, True])
@pytest.mark.parametrize(("tokens", "choices"), [(1, 2), (7, 1), (40, 3)])
def test_a_token_gets_the_weighted_sum_of_its_experts(
    sorts: bool, tokens: int, choices: int
) -> None:
    x, weights, ids = routed(tokens, choices)
    got = experts(sorts, [])(x, weights, ids)
    wanted = fused_moe(x, *stacks(), weights, ids, "silu")
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    assert experts(sorts, [])(x.bfloat16(), weights, ids).dtype == torch.bfloat16


def test_where_the_routing_is_read_an_expert_sees_its_own_tokens_and_idle_ones_none() -> None:
    x, weights, ids = routed(9, 2)
    seen: list[tuple[int, int]] = []
    experts(True, seen)(x, weights, ids)
    counts = torch.bincount(ids.flatten(), minlength=EXPERTS).tolist()
    assert seen == [(expert, count) for expert, count in enumerate(counts) if count]


def test_elsewhere_every_expert_sees_every_token() -> None:
    seen: list[tuple[int, int]] = []
    experts(False, seen)(*routed(9, 2))
    assert seen == [(expert, 9) for expert in range(EXPERTS)]
