"""Laws of cutting memory into KV blocks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from inferplane.errors import CapacityError
from inferplane.execution.host_runtime import HostRuntime
from inferplane.execution.kv_planning import KVDemand, page_bytes, plan_blocks
from inferplane.execution.torch_allocator import TorchAllocator
from inferplane.execution.torch_kv_store import TorchKVStore
from inferplane.interfaces import EngineConfig, KVGroup, LayerKV, MemoryReport

FULL = KVGroup((LayerKV("a", 2, 8, 8, "float32"), LayerKV("b", 2, 8, 8, "float32")))
WINDOW = KVGroup((LayerKV("w", 2, 8, 8, "float32", window=40),), window=40)
PAGE = 2 * 2 * 16 * 2 * 8 * 4
CONFIG = EngineConfig("", max_model_len=256, max_num_seqs=4, memory_fraction=0.5)
ONE = KVDemand((FULL,), 16, max_step_tokens=64)
BOTH = KVDemand((FULL, WINDOW), 16, max_step_tokens=64)


def memory(free_pages: float, used: int = 0, reserved: int = 0) -> MemoryReport:
    """A report of which half, less what is used and reserved, is so many pages."""
    total = 2 * (int(free_pages * PAGE) + used + reserved)
    return MemoryReport(total, total - used, reserved)


def test_a_page_holds_one_block_of_every_layer_of_the_largest_group() -> None:
    store = TorchKVStore(HostRuntime(), TorchAllocator())
    assert page_bytes((FULL, WINDOW), store, 16) == PAGE


def test_blocks_are_what_the_fraction_leaves_after_use_and_reserve() -> None:
    assert plan_blocks(ONE, PAGE, memory(20.9, used=777, reserved=99), CONFIG).num_blocks == 20


def test_a_pool_is_never_larger_than_its_bookkeeping_is_worth() -> None:
    assert plan_blocks(ONE, PAGE, memory(10**6), CONFIG).num_blocks == 2 * 4 * 16 + 1


def test_unknown_memory_is_taken_to_hold_every_lane() -> None:
    assert plan_blocks(ONE, PAGE, MemoryReport(0, 0), CONFIG).num_blocks == 4 * 16 + 1


def test_block_zero_is_not_counted_as_room() -> None:
    assert plan_blocks(ONE, PAGE, memory(17), CONFIG).num_blocks == 17
    with pytest.raises(CapacityError):
        plan_blocks(ONE, PAGE, memory(16), CONFIG)


def test_the_error_names_bytes_needed_and_available_and_the_longest_context() -> None:
    with pytest.raises(CapacityError) as caught:
        plan_blocks(ONE, PAGE, memory(9), CONFIG)
    message = str(caught.value)
    assert f"needs {17 * PAGE} bytes, {9 * PAGE} are available" in message
    assert "--max-model-len 128 fits" in message


def test_a_context_left_to_us_may_shrink_but_not_to_nothing() -> None:
    assert plan_blocks(ONE, PAGE, memory(9), CONFIG, may_shrink=True).num_blocks == 9
    with pytest.raises(CapacityError, match="not even one block fits"):
        plan_blocks(ONE, PAGE, memory(1), CONFIG, may_shrink=True)


def test_memory_that_is_used_up_is_none_available() -> None:
    with pytest.raises(CapacityError, match=" 0 are available"):
        plan_blocks(ONE, PAGE, MemoryReport(1000, 100), CONFIG)


def test_a_window_group_asks_for_its_window_and_the_tokens_in_flight() -> None:
    assert BOTH.blocks(256) == 16 + (-(-(39 + 64) // 16) + 1)
    assert BOTH.blocks(32) == 2 + 2


@pytest.mark.parametrize("num_blocks", [0, 1, 2, 7, 20, 24, 40])
def test_the_longest_context_fits_and_one_more_token_does_not(num_blocks: int) -> None:
    longest = BOTH.longest(num_blocks, 400)
    assert BOTH.blocks(longest) <= num_blocks
    assert longest == 400 or BOTH.blocks(longest + 1) > num_blocks


def test_the_plan_keeps_groups_and_block_size() -> None:
    plan = plan_blocks(BOTH, PAGE, memory(100), replace(CONFIG, max_num_seqs=64))
    assert (plan.block_size, plan.groups) == (16, (FULL, WINDOW))
