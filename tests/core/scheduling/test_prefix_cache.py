"""Digests, hits, publication, eviction and what is told of them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest

from inferplane.errors import ConfigError
from inferplane.interfaces import KVGroup
from inferplane.media import MediaItem
from inferplane.scheduling.cache_events import AllCleared, BlocksRemoved, BlocksStored
from inferplane.scheduling.digest_chain import extra_keys
from inferplane.scheduling.hits import longest_hit, window_needs


def picture(content_id, offset, length):
    return MediaItem(content_id=content_id, offset=offset, length=length)


def tokens(count, first=100):
    return list(range(first, first + count))


@pytest.mark.behaviour("S31")
def test_a_prefix_is_shared_only_within_equal_cache_domains(make_blocks):
    blocks = make_blocks(50)
    blocks.take(blocks.sequence(tokens(55), domain=b"a"))
    assert blocks.manager.lookup(blocks.sequence(tokens(55), domain=b"a")).tokens == 48
    assert blocks.manager.lookup(blocks.sequence(tokens(55), domain=b"b")).tokens == 0
    assert blocks.manager.lookup(blocks.sequence(tokens(55))).tokens == 0


@pytest.mark.behaviour("S31")
def test_only_the_first_block_carries_the_domain(make_blocks):
    sequence = make_blocks(9).sequence(tokens(48), domain=b"tenant")
    keys = [extra_keys(sequence, start, start + 16) for start in (0, 16, 32)]
    assert keys == [(("", b"tenant"),), (), ()]


@pytest.mark.behaviour("S32")
def test_a_digest_resolves_as_long_as_one_copy_is_left(make_blocks):
    blocks = make_blocks(5)
    index = blocks.manager.cache.index
    a, b, c = b"a", b"b", b"c"
    for block, key in ((1, a), (2, b), (3, c), (4, a)):
        index.add(block, key)
    assert index.find(a, 1) == 1
    assert index.remove(2) == b
    assert index.remove(1) is None
    assert index.find(a, 1) == 4
    assert index.remove(3) == c
    assert index.remove(4) == a
    assert len(index) == 0
    assert index.find(a, 1) == 0


@pytest.mark.behaviour("S33")
def test_media_items_enter_the_digest_with_their_offset_in_each_block(make_blocks):
    items = (picture("aaa", 11, 10), picture("bbb", 30, 18))
    sequence = make_blocks(9).sequence(tokens(59), items=items)
    keys = [extra_keys(sequence, start, start + 16) for start in (0, 16, 32)]
    assert keys == [(("aaa", 11),), (("aaa", -5), ("bbb", 14)), (("bbb", -2),)]


@pytest.mark.behaviour("S33")
def test_another_image_under_equal_text_is_no_hit(make_blocks):
    blocks = make_blocks(20)
    blocks.take(blocks.sequence(tokens(50), items=(picture("aaa", 20, 5),)))
    same = blocks.sequence(tokens(50), items=(picture("aaa", 20, 5),))
    other = blocks.sequence(tokens(50), items=(picture("bbb", 20, 5),))
    moved = blocks.sequence(tokens(50), items=(picture("aaa", 21, 5),))
    assert blocks.manager.lookup(same).tokens == 48
    assert blocks.manager.lookup(other).tokens == 16
    assert blocks.manager.lookup(moved).tokens == 16


@pytest.mark.behaviour("S33")
def test_hashing_piece_by_piece_equals_hashing_at_once(make_blocks):
    items = (picture("aaa", 11, 10), picture("bbb", 30, 18))
    blocks = make_blocks(20)
    whole = blocks.sequence(tokens(64), items=items)
    blocks.take(whole)
    piecewise = make_blocks(20)
    growing = piecewise.sequence(tokens(5), items=items)
    piecewise.take(growing)
    for end in (16, 31, 33, 64):
        growing.token_ids = tokens(end)
        piecewise.take(growing, end - growing.computed)
    assert growing.digests == whole.digests


def test_an_adapter_keeps_its_blocks_to_itself(make_blocks):
    blocks = make_blocks(20)
    blocks.take(blocks.sequence(tokens(40), adapter="french"))
    assert blocks.manager.lookup(blocks.sequence(tokens(40))).tokens == 0
    assert blocks.manager.lookup(blocks.sequence(tokens(40), adapter="german")).tokens == 0
    assert blocks.manager.lookup(blocks.sequence(tokens(40), adapter="french")).tokens == 32


def test_digests_are_sha256_over_parent_tokens_and_keys(make_blocks):
    sequence = make_blocks(9, block=2).sequence([1, 2, 3, 4])
    blocks = make_blocks(9, block=2)
    blocks.take(sequence)
    first = hashlib.sha256(b"root" + bytes([1, 0, 0, 0, 2, 0, 0, 0])).digest()
    second = hashlib.sha256(first + bytes([3, 0, 0, 0, 4, 0, 0, 0])).digest()
    assert sequence.digests == [first, second]


@pytest.mark.behaviour("S34")
def test_events_tell_what_was_stored_removed_and_cleared(make_blocks):
    blocks = make_blocks(6, event_limit=100)
    first = blocks.sequence(tokens(80))
    blocks.take(first)
    (stored,) = blocks.manager.take_events()
    assert isinstance(stored, BlocksStored)
    assert stored.digests == tuple(first.digests)
    assert stored.token_ids == tuple(tokens(80))
    assert stored.block_size == 16
    blocks.manager.free(first)
    second = blocks.sequence(tokens(80, 900))
    blocks.take(second)
    events = blocks.manager.take_events()
    assert [type(e) for e in events] == [BlocksRemoved] * 5 + [BlocksStored]
    removed = {d for e in events[:5] for d in e.digests}
    assert removed == set(first.digests)
    blocks.manager.free(second)
    assert blocks.manager.reset()
    assert blocks.manager.take_events() == [AllCleared()]


def test_events_nobody_takes_stay_bounded(make_blocks):
    blocks = make_blocks(40, block=1, event_limit=3)
    for first in range(100, 130, 3):
        blocks.take(blocks.sequence(tokens(3, first)))
    events = blocks.manager.take_events()
    assert len(events) <= 3
    assert AllCleared() in events


@pytest.mark.behaviour("S36")
@pytest.mark.parametrize(
    ("flags", "length"),
    [
        ("T", 1),
        ("TF", 1),
        ("TT", 2),
        ("TTTF", 3),
        ("TTFTFFTTFTTT", 12),
        ("TTFTFFTTFFF", 8),
        ("TTFTFFTTFFFT", 8),
    ],
)
def test_a_window_hit_needs_only_the_blocks_its_next_token_reads(flags, length):
    def find(group, index):
        return index + 1 if flags[index] == "T" else 0

    hit = longest_hit(find, 1, window_needs([KVGroup(window=4)], 2), len(flags), 2)
    assert hit.tokens == 2 * length
    (found,) = hit.blocks
    assert len(found) == length
    assert found[: max(0, length - 2)] == [0] * max(0, length - 2)
    assert all(found[max(0, length - 2) :])


def test_a_hit_is_as_long_as_the_group_that_knows_least_allows():
    cached = ("TTTTTFTT", "FFTTFTTT")

    def find(group, index):
        return index + 1 if cached[group][index] == "T" else 0

    hit = longest_hit(find, 2, window_needs([KVGroup(), KVGroup(window=4)], 2), 8, 2)
    assert hit.tokens == 8
    assert hit.blocks == ([1, 2, 3, 4], [0, 0, 3, 4])


def test_nothing_is_found_before_it_is_proven(make_blocks):
    blocks = make_blocks(20, adopt_pending=False)
    first = blocks.sequence(tokens(40))
    blocks.take(first, commit=False)
    assert blocks.manager.lookup(blocks.sequence(tokens(40))).tokens == 0
    blocks.manager.commit(first, 40)
    assert blocks.manager.lookup(blocks.sequence(tokens(40))).tokens == 32


def test_a_later_plan_may_adopt_what_an_earlier_one_fills(make_blocks):
    blocks = make_blocks(20)
    blocks.manager.cache.step = 1
    blocks.take(blocks.sequence(tokens(40)), commit=False)
    other = blocks.sequence(tokens(40))
    assert blocks.manager.lookup(other).tokens == 0
    blocks.manager.cache.step = 2
    assert blocks.manager.lookup(other).tokens == 32
    blocks.take(other, commit=False)
    assert other.adopted == [1, 2]


def test_blocks_of_a_step_in_flight_are_not_found_once_their_owner_left(make_blocks):
    blocks = make_blocks(20)
    first = blocks.sequence(tokens(40))
    blocks.manager.cache.step = blocks.manager.pool.newest_step = 1
    blocks.take(first, commit=False)
    blocks.manager.free(first)
    blocks.manager.cache.step = 2
    assert blocks.manager.lookup(blocks.sequence(tokens(40))).tokens == 0


def test_a_condemned_block_is_not_found_and_zeroed_before_its_next_use(make_blocks):
    blocks = make_blocks(4)
    first = blocks.sequence(tokens(40))
    blocks.manager.cache.step = 1
    blocks.take(first, commit=False)
    assert blocks.manager.condemn(first) == [1, 2]
    blocks.manager.free(first)
    blocks.manager.cache.step = 2
    assert blocks.manager.lookup(blocks.sequence(tokens(40))).tokens == 0
    blocks.take(blocks.sequence(tokens(40, 700)))
    assert sorted(blocks.manager.pool.zeroed) == [1, 2, 3]


def test_a_proven_block_is_not_zeroed(make_blocks):
    blocks = make_blocks(4)
    first = blocks.sequence(tokens(40))
    blocks.take(first)
    blocks.manager.free(first)
    blocks.take(blocks.sequence(tokens(40, 700)))
    assert blocks.manager.pool.zeroed == []


@pytest.mark.behaviour("S40")
def test_reset_refuses_while_a_block_is_in_use(make_blocks):
    blocks = make_blocks(10)
    first = blocks.sequence(tokens(40))
    blocks.take(first)
    assert not blocks.manager.reset()
    assert blocks.manager.lookup(blocks.sequence(tokens(40))).tokens == 32
    blocks.manager.free(first)
    assert blocks.manager.reset()
    assert blocks.manager.lookup(blocks.sequence(tokens(40))).tokens == 0
    assert blocks.manager.num_free == 9


@pytest.mark.behaviour("S40")
def test_the_first_block_of_a_prompt_has_no_parent(make_blocks):
    blocks = make_blocks(10, event_limit=10)
    sequence = blocks.sequence(tokens(16))
    blocks.take(sequence)
    sequence.token_ids += tokens(16, 500)
    blocks.take(sequence)
    first, second = blocks.manager.take_events()
    assert first.parent is None
    assert second.parent == first.digests[-1]


@pytest.mark.behaviour("S40")
def test_a_draft_head_that_needs_hidden_states_gets_one_block_less(make_blocks):
    blocks = make_blocks(10, drop_last_hit=True)
    blocks.take(blocks.sequence(tokens(55)))
    assert blocks.manager.lookup(blocks.sequence(tokens(55))).tokens == 32


@pytest.mark.case("hash-collision")
def test_a_colliding_digest_is_no_hit_when_contents_are_checked(make_blocks):
    blocks = make_blocks(200, block=2, paranoid=True, digest=lambda data: bytes(32))
    for first in range(0, 40, 10):
        blocks.take(blocks.sequence(tokens(6, first)))
    same = blocks.sequence(tokens(6, 20))
    hit = blocks.manager.lookup(same)
    assert hit.tokens == 4
    assert hit.blocks == ([7, 8],)
    assert blocks.manager.lookup(blocks.sequence(tokens(6, 1000))).tokens == 0
    assert blocks.manager.cache.index.collisions > 0


def test_a_copied_beginning_is_found_only_while_its_block_has_the_content(make_blocks):
    blocks = make_blocks(4, match_unit=4)
    first = blocks.sequence(tokens(16))
    blocks.take(first)
    probe = blocks.sequence(tokens(12) + tokens(20, 900))
    assert blocks.manager.lookup(probe).source == 1
    blocks.manager.free(first)
    blocks.take(blocks.sequence(tokens(48, 700)))
    assert blocks.manager.lookup(probe).source == 0


def test_a_copied_beginning_is_not_taken_from_a_block_that_is_filled_again(make_blocks):
    blocks = make_blocks(2, match_unit=4)
    first = blocks.sequence(tokens(16))
    blocks.take(first)
    blocks.manager.free(first)
    again = blocks.sequence(tokens(16))
    assert blocks.manager.allocate(again, 16) == ([1],), "the same digest, in the same block"
    probe = blocks.sequence(tokens(12) + tokens(20, 900))
    assert blocks.manager.lookup(probe).source == 0
    blocks.manager.commit(again, 16)
    assert blocks.manager.lookup(probe).source == 1


def test_what_left_a_window_is_not_proven_by_who_held_it_once(make_blocks):
    blocks = make_blocks(9, block=2, groups=[KVGroup(window=4)])
    producer = blocks.sequence(tokens(6))
    blocks.take(producer, commit=False)
    adopter = blocks.sequence(tokens(20))
    blocks.manager.cache.step = 1
    hit = blocks.manager.lookup(adopter)
    blocks.manager.allocate(adopter, 2, hit)
    left = list(adopter.adopted)
    assert left and not adopter.on_sand
    adopter.computed += 2
    blocks.manager.release_outside_window(adopter, 14)
    assert adopter.adopted == [] and adopter.on_sand
    assert set(left) <= set(blocks.manager.cache.index.pending)
    blocks.manager.commit(adopter, 8)
    assert set(left) <= set(blocks.manager.cache.index.pending), "only who reads a block proves it"
    assert not adopter.on_sand


def test_a_unit_that_does_not_divide_the_block_is_refused(make_blocks):
    with pytest.raises(ConfigError, match="multiple"):
        make_blocks(9, match_unit=5)


_SCRIPT = """
from inferplane.scheduling.digest_chain import DigestChain, sha256
from inferplane.scheduling.sequence import Sequence
from inferplane.request import Request
request = Request(request_id="", prompt_ids=tuple(range(64)), cache_domain=b"tenant")
sequence = Sequence(request, arrival_s=0.0, token_ids=list(range(64)), max_len=64)
print(DigestChain(b"root", 16, sha256, False).extend(sequence, 4)[-1].hex())
"""


def test_digests_do_not_depend_on_the_hash_seed():
    runs = [
        subprocess.run(
            [sys.executable, "-c", _SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    ]
    assert runs[0] == runs[1] != ""
