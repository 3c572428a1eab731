"""Holders, fences and blocks that must be zeroed."""

from __future__ import annotations

from inferplane.scheduling.block_pool import BlockPool
from inferplane.scheduling.prefix_index import PrefixIndex


def make(num_blocks=6):
    evicted = []
    pool = BlockPool(num_blocks, PrefixIndex(num_blocks, True, False), False, evicted.append)
    return pool, evicted


def test_a_fence_around_nothing_is_no_fence():
    pool, _ = make()
    pool.newest_step = 1
    pool.release([], fence=True)
    assert (pool.num_fenced, pool.fenced_blocks()) == (0, [])


def test_a_block_behind_two_fences_comes_back_with_the_second():
    pool, _ = make()
    block = pool.pop()
    pool.touch(block)
    pool.newest_step = 1
    pool.release([(block, True)], fence=True)
    pool.newest_step = 2
    pool.release([(block, True)], fence=True)
    assert pool.num_fenced == 1
    pool.settle(1)
    assert (pool.num_fenced, pool.refs[block], len(pool.free)) == (1, 1, 4)
    pool.settle(2)
    assert (pool.num_fenced, pool.refs[block], len(pool.free)) == (0, 0, 5)


def test_a_distrusted_block_is_zeroed_whether_anybody_could_find_it_or_not():
    pool, evicted = make()
    pool.index.add(1, b"key")
    pool.unhash(1)
    pool.unhash(2)
    assert evicted == [b"key"]
    assert sorted(pool.pop() for _ in range(5)) == [1, 2, 3, 4, 5]
    assert sorted(pool.zeroed) == [1, 2]


def test_an_evicted_block_that_was_never_proven_is_zeroed():
    pool, evicted = make(2)
    block = pool.pop()
    pool.index.add(block, b"key")
    pool.index.pending[block] = (None, 0)
    pool.release([(block, True)])
    assert pool.pop() == block
    assert (evicted, pool.zeroed) == ([b"key"], [block])


def test_a_replaced_device_has_no_fences_and_nothing_to_zero():
    pool, _ = make()
    block = pool.pop()
    pool.newest_step = 3
    pool.release([(block, False)], fence=True)
    pool.unhash(4)
    pool.replaced()
    assert len(pool.free) == 5
    assert not pool.busy
    for _ in range(5):
        pool.pop()
    assert pool.zeroed == []
