import pytest

from inferplane.engine.engine import Engine
from inferplane.engine.recovery import CrashBudget, Recovery
from inferplane.engine.replay import Replay
from inferplane.errors import DeviceError, EngineError
from inferplane.interfaces import ShapePolicy
from inferplane.request import FinishReason
from inferplane.testing.null import NullExecutor, null_tokens
from inferplane.testing.null_engine import null_engine, null_plan, null_request


def test_the_budget_counts_crashes_within_its_window() -> None:
    budget = CrashBudget(most=3, window_s=10.0)
    assert budget.spend(0.0) and budget.spend(1.0)
    assert budget.spend(20.0)  # the first two are forgotten
    assert budget.spend(21.0) and not budget.spend(22.0)


class Bench:
    """An engine whose executor is replaced in this process."""

    def __init__(self, device: str = "null", **options: str) -> None:
        self.plan = null_plan(device, options=options)
        self.engine, self.executor = null_engine(self.plan)
        self.kv = self.executor.plan_kv()
        self.reasons: list[str] = []
        self.ended: dict[str, tuple[FinishReason, str]] = {}
        self.made: dict[str, list[int]] = {}
        self.recovery = Recovery(self.engine, self.restart, self.replay, CrashBudget(most=4))

    def restart(self, reason: str) -> None:
        self.reasons.append(reason)
        executor = NullExecutor(self.executor.options, 1000, self.plan.config.max_num_seqs)
        executor.start(self.kv, lambda *_: None)
        self.engine.executor = self.executor = executor

    def replay(self) -> Replay:
        return Replay(self.executor, self.kv, self.plan, ShapePolicy())

    def run(self) -> None:
        while self.engine.busy:
            try:
                self.engine.step()
            except Exception as error:
                self.recovery.recover(error)
            for output in self.engine.outputs:
                self.made.setdefault(output.request_id, []).extend(output.token_ids)
                if output.finish is not None:
                    assert output.request_id not in self.ended
                    self.ended[output.request_id] = (output.finish, output.error)
            self.engine.outputs.clear()


@pytest.mark.parametrize("device", ["null", "null_sync"])
@pytest.mark.parametrize("option", ["crash_token", "bug_token"])
def test_the_request_at_fault_ends_and_the_others_lose_nothing(device, option) -> None:
    bench = Bench(device, **{option: "999"})
    for number in range(5):
        bench.engine.add(null_request(str(number), (number,), max_tokens=30))
    for _ in range(6):
        bench.engine.step()
    bench.engine.add(null_request("bad", (1, 999), max_tokens=30))
    bench.run()
    assert bench.ended.pop("bad") == (FinishReason.ERROR, "engine_poisoned_request")
    assert len(bench.ended) == 5 and set(bench.ended.values()) == {(FinishReason.LENGTH, "")}
    assert len(bench.reasons) == 2 and bench.recovery.epoch == 2
    bench.engine.add(null_request("after", (1,)))
    bench.run()
    assert len(bench.executor.lanes) == 1  # its own: replays and the ended gave theirs back


def test_tokens_after_a_recovery_continue_where_they_were() -> None:
    bench = Bench()
    seeded = {"temperature": 3.0, "seed": 5}
    bench.engine.add(null_request("a", (1, 2), max_tokens=40))
    bench.engine.add(null_request("b", (1, 2), max_tokens=40, **seeded))
    twin, _ = null_engine(bench.plan)
    twin.add(null_request("b", (1, 2), max_tokens=40, **seeded))
    for _ in range(10):
        bench.engine.step()
    bench.recovery.recover(DeviceError("the cable fell out"))
    bench.run()
    while twin.busy:
        twin.step()
    assert bench.made["a"] == null_tokens((1, 2), 40, 1000)
    assert bench.made["b"] == [token for o in twin.outputs for token in o.token_ids]
    assert bench.reasons == ["the cable fell out"]


def test_a_fault_that_does_not_come_back_costs_nobody_anything() -> None:
    bench = Bench()
    bench.engine.add(null_request("a", (1, 2), max_tokens=10))
    for _ in range(4):
        bench.engine.step()
    bench.recovery.recover(DeviceError("once"))
    bench.run()
    assert bench.ended == {"a": (FinishReason.LENGTH, "")}


def test_too_many_crashes_end_the_engine() -> None:
    bench = Bench(crash_token="999")
    bench.engine.add(null_request("first", (999,)))
    bench.run()
    bench.engine.add(null_request("second", (999,)))
    with pytest.raises(EngineError, match="4 crashes within 600 s") as end:
        bench.run()
    assert end.value.exit_code == 7


@pytest.mark.case("worker-death")
def test_workers_that_die_while_they_start_are_replaced_within_the_budget() -> None:
    bench = Bench(crash_token="999")
    works, dying = bench.recovery.restart, [DeviceError("killed while loading")] * 2

    def restart(reason: str) -> None:
        if dying:
            bench.reasons.append(reason)
            raise dying.pop()
        works(reason)

    bench.recovery.restart = restart
    bench.engine.add(null_request("a", (1,), max_tokens=30))
    bench.engine.step()
    bench.recovery.recover(DeviceError("once"))
    assert bench.reasons == ["once", "killed while loading", "killed while loading"]
    bench.run()
    assert bench.made["a"] == null_tokens((1,), 30, 1000)
    dying.append(DeviceError("and again"))
    with pytest.raises(EngineError, match="4 crashes within 600 s; the last: twice"):
        bench.recovery.recover(DeviceError("twice"))


def test_a_request_refused_while_waiting_is_no_suspect() -> None:
    bench = Bench(crash_token="999")
    plan_of_one = null_plan(options={"crash_token": "999"}, max_num_seqs=1)
    engine: Engine = null_engine(plan_of_one)[0]
    engine.add(null_request("runs", (1,), max_tokens=20))
    engine.add(null_request("waits", (999,)))
    engine.step()
    assert [sequence.request_id for sequence in engine.suspects()] == ["runs"]
    assert bench.engine.suspects() == []
