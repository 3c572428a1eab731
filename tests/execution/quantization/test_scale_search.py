"""Laws of the search for scales: no group is worse than rounded to nearest, and most are better."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from inferplane.quantization.online import Online
from inferplane.quantization.scale_search import range_steps, symmetric_scales

SIZE = 32


def groups_of(seed: int, count: int = 512) -> Tensor:
    """Weights with tails as trained ones have, of many magnitudes."""
    random = torch.Generator().manual_seed(seed)
    normal = torch.randn(count, SIZE, generator=random)
    spread = torch.randn(count, 1, generator=random).mul(3).exp()
    return normal * (1 + normal.abs()) * spread


def error(made: Tensor, groups: Tensor) -> Tensor:
    return (made - groups).double().square().sum(1)


def symmetric(groups: Tensor, scales: Tensor) -> Tensor:
    scales = torch.where(scales == 0, torch.ones_like(scales), scales)[:, None]
    return (groups / scales).round().clamp(-8, 7) * scales


def stepped(groups: Tensor, step: Tensor, least: Tensor) -> Tensor:
    codes = ((groups - least[:, None]) / step[:, None]).round().clamp(0, 15)
    return codes * step[:, None] + least[:, None]


@given(seed=st.integers(0, 1000))
def test_no_symmetric_group_is_worse_than_rounded_to_nearest(seed: int) -> None:
    groups = groups_of(seed, 64)
    top = groups.gather(1, groups.abs().argmax(1, keepdim=True))[:, 0]
    nearest = error(symmetric(groups, top / -8), groups)
    found = error(symmetric(groups, symmetric_scales(groups)), groups)
    assert bool((found <= nearest * (1 + 1e-4)).all())


@given(seed=st.integers(0, 1000))
def test_no_group_with_an_offset_is_worse_than_rounded_to_nearest(seed: int) -> None:
    groups = groups_of(seed, 64)
    low, high = torch.aminmax(groups, dim=1)
    nearest = error(stepped(groups, (high - low) / 15, low), groups)
    found = error(stepped(groups, *range_steps(groups)), groups)
    assert bool((found <= nearest * (1 + 1e-4)).all())


def test_the_search_takes_away_a_good_part_of_the_error() -> None:
    groups = groups_of(0)
    low, high = torch.aminmax(groups, dim=1)
    size = groups.double().square().sum(1)

    def share(made: Tensor) -> float:
        return float((error(made, groups) / size).mean())

    rounded = share(symmetric(groups, groups.abs().amax(1) / 7.5))
    assert share(symmetric(groups, symmetric_scales(groups))) < 0.75 * rounded
    rounded = share(stepped(groups, (high - low) / 15, low))
    assert share(stepped(groups, *range_steps(groups))) < 0.95 * rounded


def test_weights_that_lie_on_a_grid_stay_where_they_are() -> None:
    random = torch.Generator().manual_seed(3)
    codes = torch.randint(0, 16, (300, SIZE), generator=random).float()
    codes[:, :2] = torch.tensor([0.0, 15.0])
    step, least = torch.rand(300, generator=random) + 0.1, torch.randn(300, generator=random)
    weights = codes * step[:, None] + least[:, None]
    torch.testing.assert_close(stepped(weights, *range_steps(weights)), weights)
    weights = (codes - 8) * step[:, None]
    torch.testing.assert_close(symmetric(weights, symmetric_scales(weights)), weights)


@pytest.mark.parametrize("value", [0.0, 1.5, -3e-30])
def test_groups_of_one_value_keep_it(value: float) -> None:
    groups = torch.full((3, SIZE), value)
    assert bool(torch.isfinite(symmetric_scales(groups)).all())
    made = Online({"weights": "int4"}).canonical("a", {"a.weight": groups})
    assert made.offsets is not None
    wide = made.values.float() * made.scales + made.offsets
    torch.testing.assert_close(wide, groups, atol=1e-11, rtol=1e-5)
