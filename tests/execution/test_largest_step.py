"""The step that memory is measured with is one that may run."""

from __future__ import annotations

from inferplane.execution.dummy_steps import largest_step
from inferplane.interfaces import EngineConfig, SchedulerLimits, ShapePolicy, StepShape

CONFIG = EngineConfig("m", max_model_len=100, max_num_seqs=8, max_batched_tokens=260)
LIMITS = SchedulerLimits(max_prefill_seqs=None)


class AtMost(ShapePolicy):
    def __init__(self, seqs: int) -> None:
        self.seqs = seqs
        self.asked: list[StepShape] = []

    def admits(self, shape: StepShape) -> bool:
        self.asked.append(shape)
        return shape.num_seqs <= self.seqs


def test_without_a_shape_policy_it_has_all_tokens_and_all_rows() -> None:
    assert largest_step(LIMITS, CONFIG, ShapePolicy(), 16) == [100, 100, 55, 1, 1, 1, 1, 1]


def test_rows_are_halved_until_the_step_is_admitted() -> None:
    policy = AtMost(3)
    assert largest_step(LIMITS, CONFIG, policy, 16) == [100, 100]
    assert policy.asked[0] == StepShape(260, 8, 0, 100, 100, 7 + 7 + 4 + 5)
    assert [shape.num_seqs for shape in policy.asked] == [8, 4, 2]


def test_one_row_is_never_refused() -> None:
    assert largest_step(LIMITS, CONFIG, AtMost(0), 16) == [100]
