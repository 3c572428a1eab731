from dataclasses import replace

import pytest

from inferplane.engine.capacity import fit_context, kv_bytes
from inferplane.errors import CapacityError
from inferplane.interfaces import KVGroup, KVPlan, LayerKV
from inferplane.testing.null_engine import null_plan


def test_a_pool_that_holds_the_context_changes_nothing() -> None:
    plan = null_plan(max_model_len=128)
    assert fit_context(plan, KVPlan(9, 16)) is plan


def test_a_pool_one_block_short_says_what_fits() -> None:
    with pytest.raises(CapacityError, match="needs 8 KV blocks.*holds 7: --max-model-len 112"):
        fit_context(null_plan(max_model_len=128), KVPlan(8, 16))


def test_a_context_left_to_us_shrinks_to_the_pool() -> None:
    plan = replace(null_plan(max_model_len=128), fit_context=True)
    assert fit_context(plan, KVPlan(8, 16)).config.max_model_len == 112


def test_bytes_are_those_of_the_largest_group() -> None:
    layer = LayerKV("l", num_kv_heads=2, head_dim=8, head_dim_v=4, dtype="float16")
    groups = (KVGroup((layer,) * 3), KVGroup((layer,), window=8))
    assert kv_bytes(null_plan(), KVPlan(10, 16, groups)) == 10 * 16 * 3 * 2 * (8 + 4) * 2


def test_bytes_of_layers_nobody_names_come_from_the_model() -> None:
    assert kv_bytes(null_plan(), KVPlan(10, 16)) == 10 * 16 * 1 * 2 * 1 * 8 * 4
