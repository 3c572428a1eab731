import numpy as np
import pytest

from inferplane.engine.batch_builder import BatchBuilder
from inferplane.interfaces import KVGroup, KVPlan, SamplerCaps
from inferplane.scheduling.plan import ScheduledSequence, StepPlan
from inferplane.scheduling.sequence import Sequence
from inferplane.testing.null import NullPlatform
from inferplane.testing.null_engine import null_request


def builder(caps: SamplerCaps = NullPlatform.sampler, groups: int = 1) -> BatchBuilder:
    windows = (None, 8)[:groups]
    kv = KVPlan(40, 4, tuple(KVGroup(window=window) for window in windows))
    return BatchBuilder(kv, caps, num_lanes=4, max_len=64, vocab_size=100)


def sequence(lane: int, prompt: tuple[int, ...], *tables: list[int], **sampling) -> Sequence:
    request = null_request(f"lane {lane}", prompt, **sampling)
    return Sequence(request, 0.0, list(prompt), max_len=64, lane=lane, tables=tuple(tables))


def prefill(held: Sequence, start: int, count: int, samples: bool = True) -> ScheduledSequence:
    return ScheduledSequence(held, start, count, samples, is_decode=False)


def decode(held: Sequence, start: int) -> ScheduledSequence:
    return ScheduledSequence(held, start, 1, True, True, plain=True)


def test_decodes_and_chunks_lie_one_after_the_other() -> None:
    old = sequence(2, (1, 2, 3, 4, 5), [7, 9])
    new = sequence(0, tuple(range(10, 20)), [3, 4, 5])
    batch = (
        builder()
        .build(
            StepPlan(
                5, [decode(old, 4), prefill(new, 2, 6, samples=False)], new=["lane 2", "lane 0"]
            )
        )
        .batch
    )
    assert batch.step == 5 and batch.num_decodes == 1
    assert batch.token_ids.tolist() == [5, 12, 13, 14, 15, 16, 17]
    assert batch.positions.tolist() == [4, 2, 3, 4, 5, 6, 7]
    assert batch.query_start.tolist() == [0, 1, 7] and batch.seq_lens.tolist() == [5, 8]
    assert batch.lanes.tolist() == [2, 0] and batch.sampled.tolist() == [0]
    assert batch.block_tables[0].tolist() == [[7, 9, 0], [3, 4, 5]]
    assert batch.slots[0].tolist() == [36, 14, 15, 16, 17, 18, 19]
    assert batch.token_source.tolist() == [-1] * 7
    for array in (batch.token_ids, batch.positions, batch.slots[0], batch.block_tables[0]):
        assert array.dtype == np.int32 and array.flags.c_contiguous
    assert batch.sampling is not None and batch.sampling.position.tolist() == [5]


def test_a_token_still_on_the_device_is_named_by_its_row_of_the_step_before() -> None:
    make = builder()
    a, b = sequence(1, (1, 2), [3]), sequence(3, (5, 6), [4])
    make.build(StepPlan(1, [prefill(b, 0, 2), prefill(a, 0, 2)], new=["lane 1", "lane 3"]))
    batch = make.build(StepPlan(2, [decode(a, 2), decode(b, 2)])).batch
    assert batch.token_source.tolist() == [1, 0] and batch.token_ids.tolist() == [0, 0]
    again = make.build(StepPlan(3, [decode(a, 3), decode(b, 3)])).batch
    assert again.token_source.tolist() == [0, 1] and again.positions.tolist() == [3, 3]


def test_a_token_nobody_drew_is_an_error() -> None:
    make = builder()
    held = sequence(1, (1, 2), [3])
    make.build(StepPlan(1, [prefill(held, 0, 2, samples=False)], new=["lane 1"]))
    with pytest.raises(RuntimeError, match="before its last token was drawn"):
        make.build(StepPlan(2, [decode(held, 2)]))


def test_a_repeated_step_equals_one_built_afresh() -> None:
    steady, other = builder(), sequence(0, (9,), [8])
    held = sequence(1, (1, 2, 3), [3])
    steady.build(StepPlan(1, [prefill(held, 0, 3), prefill(other, 0, 1)], new=["lane 0", "lane 1"]))
    for step in range(2, 12):
        held.token_ids.append(step)
        other.token_ids.append(step + 50)
        for table, block in ((held.tables[0], 10 + step), (other.tables[0], 25 + step)):
            if len(table) * 4 <= step + 2:
                table.append(block)
        items = [decode(held, step + 1), decode(other, step - 1)]
        fresh = builder().build(StepPlan(step, items, new=["lane 0", "lane 1"])).batch
        batch = steady.build(StepPlan(step, items)).batch
        for name in ("token_ids", "positions", "query_start", "seq_lens", "lanes", "sampled"):
            assert np.array_equal(getattr(batch, name), getattr(fresh, name)), name
        assert np.array_equal(batch.slots[0], fresh.slots[0])
        assert np.array_equal(batch.block_tables[0], fresh.block_tables[0])
        assert np.array_equal(batch.sampling.position, fresh.sampling.position)


def test_a_lane_s_next_owner_sees_nothing_of_the_last() -> None:
    make = builder()
    first = sequence(1, (1,) * 9, [3, 4, 5])
    make.build(StepPlan(1, [prefill(first, 0, 9)], new=["lane 1"]))
    second = sequence(1, (2,), [6], temperature=0.5, seed=4)
    wide = sequence(2, (2,) * 9, [7, 8, 9])
    plan = StepPlan(2, [prefill(second, 0, 1), prefill(wide, 0, 9)], new=["x"], released=[1])
    batch = make.build(plan).batch
    assert batch.block_tables[0].tolist() == [[6, 0, 0], [7, 8, 9]]
    assert batch.released.tolist() == [1]
    assert batch.sampling.temperature.tolist() == [0.5, 0.0]


def test_a_resumed_sequence_gets_its_new_blocks() -> None:
    make = builder()
    held = sequence(1, (1, 2, 3), [3])
    make.build(StepPlan(1, [prefill(held, 0, 3)], new=["lane 1"]))
    held.tables = ([9],)
    batch = make.build(StepPlan(2, [prefill(held, 0, 3)], resumed=["lane 1"])).batch
    assert batch.slots[0].tolist() == [36, 37, 38]


def test_blocks_that_left_the_window_read_zero_in_their_group_alone() -> None:
    make = builder(groups=2)
    held = sequence(0, (1,) * 12, [3, 4, 5], [6, 7, 8])
    make.build(StepPlan(1, [prefill(held, 0, 12)], new=["lane 0"]))
    held.token_ids.append(1)
    held.tables = ([3, 4, 5, 9], [0, 7, 8, 10])
    batch = make.build(StepPlan(2, [decode(held, 12)])).batch
    assert [table.tolist() for table in batch.block_tables] == [[[3, 4, 5, 9]], [[0, 7, 8, 10]]]
    assert [slots.tolist() for slots in batch.slots] == [[36], [40]]


def test_drafts_follow_the_last_known_token() -> None:
    held = sequence(0, (1, 2, 3), [3, 4])
    item = ScheduledSequence(held, 2, 4, True, True, drafts=(7, 8, -1))
    batch = builder().build(StepPlan(1, [item], new=["lane 0"])).batch
    assert batch.token_ids.tolist() == [3, 7, 8, 0] and batch.drafts.tolist() == [3]
    assert batch.sampling.position.tolist() == [3]  # of the first token drawn


def test_prompt_rows_are_scored_against_the_token_that_follows() -> None:
    held = sequence(0, (5, 6, 7, 8), [3], prompt_logprobs=2)
    plain = sequence(1, (1, 2), [4])
    make = builder()
    plan = StepPlan(1, [prefill(plain, 0, 2), prefill(held, 0, 2, False)], new=["a"])
    batch = make.build(plan).batch
    assert batch.scored.tolist() == [[2, 6], [3, 7]] and batch.num_scored_logprobs == 2
    batch = make.build(StepPlan(2, [prefill(held, 2, 2)])).batch
    assert batch.scored.tolist() == [[0, 8]]


def test_zeroed_copied_and_borrowed_lanes_are_passed_on_once() -> None:
    make = builder()
    make.release((3,))
    held = sequence(0, (1, 2), [3])
    plan = StepPlan(1, [prefill(held, 0, 2)], new=["a"], zeroed=[5], copied=[(6, 7)], released=[2])
    batch = make.build(plan).batch
    assert batch.zeroed.tolist() == [5] and batch.copied.tolist() == [[6, 7]]
    assert batch.released.tolist() == [3, 2]
    held.token_ids.append(3)
    batch = make.build(StepPlan(2, [decode(held, 2)])).batch
    assert batch.zeroed is None and batch.copied is None and batch.released is None


def test_a_step_without_samples_has_no_sampling() -> None:
    held = sequence(0, (1, 2, 3), [3])
    batch = builder().build(StepPlan(1, [prefill(held, 0, 2, False)], new=["lane 0"])).batch
    assert batch.sampling is None and batch.sampled.tolist() == []


# ── how rows draw ──


def sampled_batch(caps: SamplerCaps, *rows: dict[str, object]):
    held = [sequence(i, (1, 2, 3), [3 + i], **sampling) for i, sampling in enumerate(rows)]
    plan = StepPlan(1, [prefill(s, 0, 3) for s in held], new=[s.request_id for s in held])
    return builder(caps).build(plan)


def test_extras_touch_only_the_rows_that_ask() -> None:
    built = sampled_batch(
        NullPlatform.sampler,
        {},
        {"presence_penalty": 0.5, "logit_bias": {7: 1.5}},
        {"allowed_token_ids": (33, 64)},
    )
    sampling = built.batch.sampling
    assert sampling.penalties.tolist() == [[0, 0, 1], [0.5, 0, 1], [0, 0, 1]]
    assert sampling.seen.start.tolist() == [0, 0, 3, 3]
    assert sampling.seen.ids.tolist() == [1, 2, 3] and sampling.seen.values.tolist() == [0, 0, 0]
    assert sampling.bias.start.tolist() == [0, 0, 1, 1] and sampling.bias.ids.tolist() == [7]
    assert sampling.bitmask.shape == (3, 4)
    assert sampling.bitmask[0].tolist() == [0xFFFFFFFF] * 4
    assert sampling.bitmask[2].tolist() == [0, 2, 1, 0]
    assert built.host_sampling is None


def test_rows_beyond_the_device_are_drawn_on_the_host_and_neutral_on_the_device() -> None:
    caps = SamplerCaps(params=("temperature", "seed", "top_k"), max_top_k=50)
    built = sampled_batch(
        caps,
        {"temperature": 0.7, "top_k": 5, "seed": 3},
        {"temperature": 0.7, "top_k": 5, "top_p": 0.5, "seed": 4},
        {"logit_bias": {7: 1.5}},
        {"temperature": 0.7, "top_k": 0, "seed": 5},  # the whole vocabulary is beyond max_top_k
    )
    batch, host = built.batch, built.host_sampling
    assert batch.host_rows.tolist() == [1, 2, 3]
    assert batch.sampling.temperature.tolist() == [np.float32(0.7), 0, 0, 0]
    assert batch.sampling.bias is None and batch.sampling.top_p.tolist() == [1, 1, 1, 1]
    assert host.seed.tolist() == [4, 0, 5] and host.top_p.tolist() == [0.5, 1, 1]
    assert host.bias.start.tolist() == [0, 0, 1, 1]


def test_seen_tokens_are_counted_in_the_output_only() -> None:
    make = builder()
    held = sequence(0, (1, 2, 1), [3], frequency_penalty=0.5)
    make.build(StepPlan(1, [prefill(held, 0, 3)], new=["lane 0"]))
    for step, token in enumerate((9, 1, 9), 2):
        held.token_ids.append(token)
        batch = make.build(StepPlan(step, [decode(held, step + 1)])).batch
    seen = batch.sampling.seen
    assert dict(zip(seen.ids.tolist(), seen.values.tolist(), strict=True)) == {1: 1, 2: 0, 9: 2}


def test_min_tokens_forbid_ends_until_the_last_early_position() -> None:
    make = builder()
    held = sequence(0, (1, 2), [3], min_tokens=2, stop_token_ids=(8, 4))
    forbidden = []
    make.build(StepPlan(1, [prefill(held, 0, 1, False)], new=["lane 0"]))
    for position in range(1, 5):
        batch = make.build(StepPlan(position + 1, [decode(held, position)])).batch
        bias = batch.sampling.bias
        forbidden.append([] if bias is None else bias.ids.tolist())
        held.token_ids.append(50 + position)
    assert forbidden == [[4, 8], [4, 8], [], []]
