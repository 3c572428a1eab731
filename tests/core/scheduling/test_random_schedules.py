"""Any order of calls, any sizes: what runs reads its own past, and the books balance.

The device is the simulation's: each slot remembers the prefix it was computed from, and every call
is followed by a recount (INV-1 to 8, 10 to 13, 15 to 19, 22, 23, 26, 27).
"""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inferplane.interfaces import EngineConfig, SchedulerLimits
from inferplane.launch import SchedulerConfig
from inferplane.request import FinishReason
from inferplane.scheduling.prefix_cache import CacheOptions
from inferplane.scheduling.sequence import SequenceState
from inferplane.scheduling.state import Features
from inferplane.testing.simulation import Knobs, replay
from inferplane.testing.simulation import actions as act
from inferplane.testing.simulation.world import World

numbers = st.integers(0, 9)
windows = st.sampled_from(((None,), (None,), (5,), (None, 3), (9, None, 2)))


@st.composite
def worlds(draw) -> Knobs:
    """Small worlds of every kind."""
    block = draw(st.integers(1, 5))
    blocks = draw(st.integers(4, 30))
    chunked = draw(st.booleans())
    max_len = draw(st.integers(2, (blocks - 1) * block))
    budget = draw(st.integers(1, 24)) if chunked else max_len
    caching = draw(st.booleans())
    return Knobs(
        num_blocks=blocks,
        block_size=block,
        windows=draw(windows),
        config=EngineConfig(
            model="",
            max_model_len=max_len,
            max_num_seqs=draw(st.integers(1, 6)),
            max_batched_tokens=budget,
        ),
        settings=SchedulerConfig(
            policy=draw(st.sampled_from(("fcfs", "priority"))),
            reserve_whole_prompt=draw(st.booleans()),
            prefill_interval=draw(st.integers(1, 3)),
            max_overtakes=draw(st.integers(0, 2)),
            adopt_pending=draw(st.booleans()),
            num_drafts=draw(st.integers(0, 3)),
            max_waiting=100,
        ),
        limits=SchedulerLimits(
            max_prefill_seqs=draw(st.sampled_from((None, 1, 2))),
            mix_prefill_decode=draw(st.booleans()),
            chunked_prefill=chunked,
            max_drafts=3,
            async_steps=draw(st.integers(0, 2)),
            preemption=draw(st.sampled_from(("recompute", "recompute", "none"))),
            prefix_cache=caching,
            prefer_low_block_ids=draw(st.booleans()),
        ),
        features=Features(outside_readers=draw(st.booleans())),
        cache=CacheOptions(paranoid=True, adopt_in_step=draw(st.booleans())),
        documents=1,
        vocabulary=4,
        device_drafts=draw(st.booleans()),
    )


adds = st.builds(
    act.Add,
    name=st.just(""),
    document=st.just(0),
    shared=st.integers(0, 12),
    own=st.integers(1, 4),
    seed=st.integers(0, 3),
    max_tokens=st.integers(1, 8),
    priority=st.integers(0, 2),
    penalised=st.booleans(),
)
steps = st.builds(
    act.Step,
    failed_rows=st.one_of(st.just(()), st.tuples(numbers)),
    silent_rows=st.one_of(st.just(()), st.just(()), st.tuples(numbers)),
    failed_allocation=st.sampled_from((0, 0, 0, 1, 2)),
)
plain = st.one_of(adds, adds, st.just(act.Step()), st.just(act.Step()), st.just(act.Answer()))
rude = st.one_of(
    adds,
    steps,
    steps,
    st.just(act.Answer()),
    st.just(act.Answer()),
    st.builds(
        act.Finish,
        numbers=st.tuples(numbers),
        reason=st.sampled_from((FinishReason.ABORT, FinishReason.STOP)),
    ),
    st.builds(
        act.Hold,
        number=numbers,
        state=st.sampled_from((SequenceState.WAITING_GRAMMAR, SequenceState.WAITING_REMOTE)),
    ),
    st.just(act.ReadyAll()),
    st.builds(act.Reset, running=st.booleans()),
    st.just(act.ReplaceWorker()),
)
quiet = settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large),
)


def named(actions):
    """Every request gets a name of its own."""
    return [
        act.Add(**{**_fields(action), "name": f"r{number}"})
        if isinstance(action, act.Add)
        else action
        for number, action in enumerate(actions)
    ]


def _fields(action):
    return {name: getattr(action, name) for name in action.__slots__}


@quiet
@given(worlds(), st.lists(plain, max_size=60))
def test_schedules_are_sound(knobs, actions):
    report = replay(knobs, named(actions))
    assert report.failure is None, report.failure


@quiet
@given(worlds(), st.lists(rude, max_size=60))
def test_schedules_are_sound_under_faults(knobs, actions):
    report = replay(knobs, named(actions))
    assert report.failure is None, report.failure


@quiet
@given(worlds(), st.lists(adds, min_size=1, max_size=8))
def test_everybody_who_was_admitted_finishes(knobs, actions):
    world = World(knobs)
    for action in named(actions):
        world.apply(action)
    left = sum(s.max_len for s in world.scheduler.sequences.values())
    for _ in range(8 * left + 50):
        if not world.scheduler.num_unfinished:
            break
        before = world.steps
        world.apply(act.Step())
        if len(world.in_flight) > knobs.limits.async_steps or world.steps == before:
            world.apply(act.Answer())
    while world.in_flight:
        world.apply(act.Answer())
    assert world.scheduler.num_unfinished == 0
    assert world.blocks.num_free == world.blocks.usable


@quiet
@given(worlds(), st.lists(plain, max_size=40))
def test_equal_calls_give_equal_plans(knobs, actions):
    assert replay(knobs, named(actions)).digest == replay(knobs, named(actions)).digest
