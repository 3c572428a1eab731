"""Steps that the real scheduler makes of random requests: nothing compiles once warm-up is over.

On torch_xla where it is installed, which `scripts/test-tpu` sees to, else on the emulation.
"""

from __future__ import annotations

from importlib.util import find_spec

import pytest

pytest.importorskip("torch")

from inferplane.testing.schedules import run_schedules

pytestmark = pytest.mark.usefixtures("forget_traces")
ON_XLA = find_spec("torch_xla") is not None
DEVICE = "tpu" if ON_XLA else "tpu-emulated"
MODULE = "inferplane_tpu.hosted" if ON_XLA else "inferplane_tpu.emulation"
STEPS = 500 if ON_XLA else 60


def test_random_schedules_compile_nothing_after_warm_up(tiny_model) -> None:
    model = tiny_model("llama")
    run_schedules(DEVICE, [MODULE], model, STEPS).check(model)
