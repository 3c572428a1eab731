"""500 steps of the real scheduler on the emulation; `scripts/test-gaudi` asks for them."""

from __future__ import annotations

import os

import pytest

from inferplane.testing.schedules import run_schedules

pytestmark = pytest.mark.skipif(
    not os.environ.get("INFERPLANE_TEST_SCHEDULES"), reason="scripts/test-gaudi asks for it"
)


def test_random_schedules_compile_nothing_after_warm_up(tiny_model) -> None:
    model = tiny_model("llama")
    run_schedules("gaudi-emulated", ["inferplane_gaudi.emulation"], model, 500).check(model)
