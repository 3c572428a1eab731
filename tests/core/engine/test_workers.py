import os
import signal
from collections.abc import Callable, Iterator

import pytest

from inferplane.config import current_environment
from inferplane.engine.batch_builder import BatchBuilder
from inferplane.engine.watchdog import Patience
from inferplane.engine.workers import WorkerExecutor
from inferplane.errors import CapacityError, ConfigError, DeviceError
from inferplane.interfaces import KVPlan, StepBatch
from inferplane.scheduling.plan import ScheduledSequence, StepPlan
from inferplane.scheduling.sequence import Sequence
from inferplane.testing.null import null_tokens
from inferplane.testing.null_engine import null_plan, null_request

Make = Callable[..., WorkerExecutor]


def nothing(*_: object) -> None:
    """Progress nobody looks at."""


@pytest.fixture
def make() -> Iterator[Make]:
    """A worker executor that is closed afterwards."""
    made: list[WorkerExecutor] = []

    def start(patience: Patience | None = None, **options: str) -> WorkerExecutor:
        plan = null_plan(options={"placement": "worker", **options})
        made.append(WorkerExecutor(plan, current_environment(), patience or Patience()))
        return made[-1]

    yield start
    for executor in made:
        executor.kill()


def started(executor: WorkerExecutor) -> WorkerExecutor:
    executor.load(nothing)
    executor.start(executor.plan_kv(), nothing)
    return executor


def prompt(*token_ids: int) -> StepBatch:
    """A step that runs one prompt to its first token."""
    plan = null_plan()
    held = Sequence(null_request("a", token_ids), 0.0, list(token_ids), 64, lane=0, tables=([1],))
    item = ScheduledSequence(held, 0, len(token_ids), True, False)
    builder = BatchBuilder(KVPlan(257, 16), plan.caps.sampler, 16, 512, 1000)
    return builder.build(StepPlan(1, [item], new=["a"])).batch


@pytest.mark.parametrize("processes", ["1", "3"])
def test_every_rank_runs_a_step_and_rank_zero_answers(make, processes) -> None:
    executor = started(make(processes=processes))
    result = executor.execute(prompt(1, 2, 3)).result()
    assert result.token_ids.tolist() == [null_tokens((1, 2, 3), 1, 1000)]
    assert executor.stats().real_tokens == 3


def test_steps_may_be_enqueued_ahead_of_their_results(make) -> None:
    executor = started(make())
    pending = [executor.execute(prompt(number, 2)) for number in range(5)]
    assert [p.result().token_ids.tolist() for p in pending] == [
        [null_tokens((number, 2), 1, 1000)] for number in range(5)
    ]


def test_progress_of_rank_zero_is_passed_on(make) -> None:
    seen: list[tuple[object, ...]] = []
    executor = make(processes="2")
    executor.load(lambda *told: seen.append(told))
    assert seen == [("load", part, 4, "nothing") for part in (1, 2, 3, 4)]


@pytest.mark.parametrize(("refuse", "kind"), [("config", ConfigError), ("device", DeviceError)])
def test_an_error_in_a_worker_is_raised_here_as_its_own_kind(make, refuse, kind) -> None:
    with pytest.raises(kind, match=f"refuse={refuse}"):
        make(refuse=refuse).load(nothing)


def test_a_device_without_room_is_a_capacity_error(make) -> None:
    executor = make(refuse="capacity")
    executor.load(nothing)
    with pytest.raises(CapacityError):
        executor.plan_kv()


def test_a_plugin_s_bug_becomes_a_device_error_with_its_name(make) -> None:
    executor = started(make(bug_token="9"))
    with pytest.raises(DeviceError, match="ZeroDivisionError: the null device has a bug"):
        executor.execute(prompt(9)).result()


def test_a_death_is_told_with_its_signal(make) -> None:
    executor = started(make(kill_token="9", processes="2"))
    with pytest.raises(DeviceError, match=r"the worker of rank [01] died: signal 9"):
        executor.execute(prompt(9)).result()


def test_a_death_between_steps_is_found_by_looking(make, wait_gone) -> None:
    executor = started(make())
    executor.check()
    pid = executor.pids[0]
    os.kill(pid, signal.SIGKILL)
    wait_gone(pid)
    with pytest.raises(DeviceError, match="signal 9"):
        executor.check()


def test_a_stopped_worker_is_given_up_long_before_a_slow_one(make) -> None:
    slow = started(make(Patience(stalled_s=0.1, hopeless_s=3600.0), step_ms="500"))
    assert slow.execute(prompt(1)).result().token_ids.shape == (1, 1)
    os.kill(slow.pids[0], signal.SIGSTOP)
    with pytest.raises(DeviceError, match="no answer from rank 0"):
        slow.execute(prompt(2)).result()


def test_a_step_beyond_all_patience_is_given_up(make) -> None:
    executor = started(make(Patience(stalled_s=0.1, hopeless_s=0.3), hang_token="9"))
    with pytest.raises(DeviceError, match="no answer from rank 0"):
        executor.execute(prompt(9)).result()


def test_closing_ends_every_process_and_may_come_twice(make, wait_gone) -> None:
    executor = started(make(processes="2"))
    pids = executor.pids
    executor.close()
    executor.close()
    for pid in pids:
        wait_gone(pid)
    assert executor.pids == ()


def test_workers_load_again_after_a_kill(make) -> None:
    executor = started(make())
    before = executor.pids
    executor.kill()
    started(executor)
    assert executor.pids != before
    assert executor.execute(prompt(1, 2)).result().token_ids.shape == (1, 1)
