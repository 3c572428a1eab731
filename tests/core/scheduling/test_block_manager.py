"""Tables, references, hits and release: the block manager alone."""

from __future__ import annotations

import pytest

from inferplane.errors import ConfigError
from inferplane.interfaces import KVGroup

FULL = KVGroup()


def tokens(count, first=100):
    return list(range(first, first + count))


def hit_of(blocks, sequence):
    return blocks.manager.lookup(sequence)


@pytest.mark.behaviour("S25")
def test_blocks_are_handed_out_in_order_shared_on_a_hit_and_freed_tail_first(make_blocks):
    blocks = make_blocks(11)
    common = tokens(48)
    first = blocks.sequence(common + tokens(7, 1000))
    assert blocks.take(first) == [1, 2, 3, 4]
    assert [blocks.hashed(b) for b in (1, 2, 3, 4)] == [True, True, True, False]

    second = blocks.sequence(common + tokens(5, 2000))
    hit = hit_of(blocks, second)
    assert (hit.tokens, hit.blocks) == (48, ([1, 2, 3],))
    assert blocks.take(second) == [5]
    assert [blocks.manager.pool.refs[b] for b in (1, 2, 3)] == [2, 2, 2]
    assert blocks.manager.num_free == 5

    blocks.manager.free(first)
    blocks.manager.free(second)
    assert blocks.manager.free_order() == [5, 4, 6, 7, 8, 9, 10, 3, 2, 1]

    third = blocks.sequence(common + tokens(6, 3000))
    assert hit_of(blocks, third).tokens == 48
    assert blocks.take(third) == [5]
    assert blocks.manager.num_free == 6


@pytest.mark.behaviour("S26")
def test_cached_blocks_are_evicted_last_and_least_recently_used_first(make_blocks):
    blocks = make_blocks(11)
    first = blocks.sequence(tokens(48) + tokens(7, 1000))
    second = blocks.sequence(tokens(48) + tokens(5, 2000))
    blocks.take(first)
    blocks.take(second)
    blocks.manager.free(first)
    blocks.manager.free(second)
    third = blocks.sequence(tokens(48) + tokens(6, 3000))
    blocks.take(third)
    blocks.manager.free(third)
    fresh = blocks.sequence(tokens(160, 5000))
    assert blocks.take(fresh) == [5, 4, 6, 7, 8, 9, 10, 3, 2, 1]


@pytest.mark.behaviour("S27")
def test_a_block_gets_its_digest_when_it_is_full_and_not_before(make_blocks):
    blocks = make_blocks(11)
    sequence = blocks.sequence(tokens(55))
    assert blocks.take(sequence) == [1, 2, 3, 4]
    sequence.token_ids += tokens(4, 500)
    assert blocks.take(sequence) == []
    assert not blocks.hashed(4)
    sequence.token_ids += tokens(19, 600)
    assert blocks.take(sequence) == [5]
    assert blocks.hashed(4)
    assert not blocks.hashed(5)


@pytest.mark.behaviour("S28")
def test_a_reused_block_forgets_its_digest(make_blocks):
    blocks = make_blocks(2)
    first = blocks.sequence(tokens(16))
    blocks.take(first)
    assert blocks.hashed(1)
    blocks.manager.free(first)
    second = blocks.sequence(tokens(15, 900))
    assert blocks.take(second) == [1]
    assert not blocks.hashed(1)


@pytest.mark.behaviour("S29")
def test_equal_tokens_after_another_prefix_are_no_hit_and_a_hit_is_never_evicted(make_blocks):
    blocks = make_blocks(3)
    a, b = tokens(16), tokens(16, 700)
    first, second = blocks.sequence(a), blocks.sequence(b)
    assert blocks.take(first) == [1]
    assert blocks.take(second) == [2]
    blocks.manager.free(first)
    blocks.manager.free(second)
    third = blocks.sequence(a + b)
    assert hit_of(blocks, third).blocks == ([1],)
    assert blocks.take(third) == [2]
    assert third.tables == ([1, 2],)


@pytest.mark.behaviour("S30")
def test_without_caching_nothing_is_found_and_a_full_pool_says_none(make_blocks):
    blocks = make_blocks(5, block=4, caching=False)
    first = blocks.sequence(tokens(10))
    assert len(blocks.take(first)) == 3
    blocks.manager.free(first)
    second = blocks.sequence(tokens(16))
    assert hit_of(blocks, second).tokens == 0
    assert len(blocks.take(second)) == 4
    assert not any(blocks.hashed(b) for b in range(5))
    assert blocks.take(blocks.sequence(tokens(4, 50))) is None


def test_a_refused_allocation_leaves_no_trace(make_blocks):
    blocks = make_blocks(4)
    first = blocks.sequence(tokens(32))
    blocks.take(first)
    before = (blocks.manager.free_order(), list(blocks.manager.pool.refs))
    second = blocks.sequence(tokens(64))
    assert blocks.take(second) is None
    assert (blocks.manager.free_order(), list(blocks.manager.pool.refs)) == before
    assert (second.room, second.owned, second.computed) == (0, 0, 0)


@pytest.mark.behaviour("S37")
def test_a_free_hit_block_counts_as_needed_but_is_not_popped(make_blocks):
    blocks = make_blocks(10, block=2)
    first = blocks.sequence(tokens(2))
    blocks.take(first)
    blocks.manager.free(first)
    second = blocks.sequence(tokens(4))
    hit = hit_of(blocks, second)
    free = blocks.manager.num_free
    assert blocks.manager.shortage(second, 2, hit) == 2 - free
    assert len(blocks.take(second)) == 1
    assert len(second.tables[0]) == 2
    assert blocks.manager.num_free == free - 2


def test_freeing_a_shared_block_keeps_it_for_the_other_owner(make_blocks):
    blocks = make_blocks(10)
    first, second = blocks.sequence(tokens(40)), blocks.sequence(tokens(40))
    blocks.take(first)
    blocks.take(second)
    shared = first.tables[0][0]
    assert second.tables[0][0] == shared
    blocks.manager.free(first)
    assert blocks.manager.pool.refs[shared] == 1
    assert shared not in blocks.manager.free_order()


def test_a_hit_leaves_at_least_one_token_to_compute(make_blocks):
    blocks = make_blocks(10)
    first = blocks.sequence(tokens(32))
    blocks.take(first)
    assert hit_of(blocks, blocks.sequence(tokens(32))).tokens == 16
    assert hit_of(blocks, blocks.sequence(tokens(33))).tokens == 32


def test_block_zero_is_never_handed_out(make_blocks):
    blocks = make_blocks(5)
    sequence = blocks.sequence(tokens(64))
    assert 0 not in blocks.take(sequence)
    blocks.manager.free(sequence)
    assert 0 not in blocks.manager.free_order()
    assert blocks.manager.usable == 4
    assert blocks.manager.usage == 0.0


def test_low_ids_come_first_and_cached_blocks_stay_least_recently_used(make_blocks):
    blocks = make_blocks(8, prefer_low_ids=True)
    first = blocks.sequence(tokens(40))
    second = blocks.sequence(tokens(20, 800))
    assert blocks.take(first) == [1, 2, 3]
    assert blocks.take(second) == [4, 5]
    blocks.manager.free(second)
    blocks.manager.free(first)
    assert blocks.manager.free_order() == [3, 5, 6, 7, 4, 2, 1]


@pytest.mark.behaviour("S35")
@pytest.mark.parametrize(("computed", "nulls"), [(0, 0), (4, 0), (5, 1), (6, 1), (7, 2), (11, 4)])
def test_blocks_leave_a_window_as_it_moves_on(make_blocks, computed, nulls):
    blocks = make_blocks(12, block=2, groups=[KVGroup(window=4)])
    sequence = blocks.sequence(tokens(22))
    blocks.take(sequence)
    blocks.manager.release_outside_window(sequence, computed)
    assert sequence.tables[0][:nulls] == [0] * nulls
    assert 0 not in sequence.tables[0][nulls:]


@pytest.mark.behaviour("S35")
def test_of_the_blocks_that_leave_a_window_the_later_one_is_released_first(make_blocks):
    blocks = make_blocks(12, block=2, groups=[KVGroup(window=4)], caching=False)
    sequence = blocks.sequence(tokens(22))
    blocks.take(sequence)
    blocks.manager.release_outside_window(sequence, 7)
    blocks.manager.release_outside_window(sequence, 11)
    assert blocks.manager.free_order()[:4] == [3, 4, 1, 2]


@pytest.mark.behaviour("S38")
def test_a_window_group_needs_no_more_than_its_cap(bench):
    both = (FULL, KVGroup(window=64))
    fits = bench(pool=78, groups=both, budget=128, in_flight_tokens=128, max_len=1024)
    assert fits.blocks.worst_case(512) == 32 + 13
    fits.add("a", 512, 1)
    assert fits.step() == {"a": 128}
    small = bench(pool=5, groups=both, budget=128, in_flight_tokens=128, max_len=1024)
    with pytest.raises(Exception, match="lower max_tokens or shorten the prompt"):
        small.add("a", 256, 1)


@pytest.mark.behaviour("S42")
def test_a_hit_that_ends_inside_a_block_is_copied_and_never_shared(make_blocks):
    blocks = make_blocks(12, match_unit=4)
    first = blocks.sequence(tokens(48))
    blocks.take(first)
    second = blocks.sequence(tokens(16 + 9) + tokens(20, 900))
    hit = hit_of(blocks, second)
    assert (hit.tokens, hit.blocks, hit.source) == (24, ([1],), 2)
    assert blocks.take(second) == [4, 5]
    assert second.tables == ([1, 4, 5],)
    assert blocks.manager.copied == [(2, 4)]
    assert blocks.manager.pool.refs[2] == 1


def test_a_pool_without_a_usable_block_is_refused(make_blocks):
    with pytest.raises(ConfigError, match="at least 2 blocks"):
        make_blocks(1)
