"""Which arrays of a step go up to the device."""

from __future__ import annotations

import pytest

from inferplane.execution.dummy_steps import dummy_step
from inferplane.execution.inputs import InputBuilder
from inferplane.interfaces import KVPlan
from inferplane.shapes import TokenGrid


@pytest.mark.parametrize("overlaps", [True, False])
def test_only_steps_that_may_overlap_say_where_their_tokens_come_from(overlaps: bool) -> None:
    shapes = TokenGrid(16, 4)
    builder = InputBuilder((), shapes, 16, 128, lambda bucket: True, overlaps)
    inputs = builder.build(dummy_step(KVPlan(8, 16), [3, 1]))
    assert inputs.bucket is not None
    assert ("token_source" in inputs.arrays) == overlaps
