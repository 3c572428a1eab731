"""Captured steps; that of one token is one kernel that stays, wherever its ops allow it."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from torch import Tensor

from inferplane.errors import DeviceError
from inferplane.interfaces import Bucket, DeviceRuntime, ExecutorStats, StepFunction
from inferplane_cuda.persistent.launcher import Launcher
from inferplane_cuda.persistent.tape import NotTapedError, Tape
from inferplane_cuda.programs import compiler_problem
from inferplane_triton.gpu.graphs import GpuGraphs
from inferplane_triton.gpu.runtime import GpuRuntime

__all__ = ["StepGraphs"]

_logger = logging.getLogger(__name__)
_FEWEST = 8
"""Instructions a launch, on average: below, launches of the ops themselves are as good."""
_OLDEST = (9, 0)
_LIMIT, _ROUNDED_LIMIT = 0.1, 0.4
"""Relative difference of hidden states and logits: 16-bit sums in another order stay below 0.05;
where each matrix rounds its inputs to 8 bits, the least difference moves one input of a hundred to
the next code, and 32 layers of random weights end 0.2 apart."""


class StepGraphs(GpuGraphs):
    """Adds the walking kernel to what every GPU's graphs do."""

    def __init__(self, device: DeviceRuntime) -> None:
        super().__init__(device)
        self._launchers: list[Launcher] = []
        self._refused = 0

    def compile(
        self,
        fn: StepFunction,
        bucket: Bucket,
        kv: Mapping[str, object],
        example: Mapping[str, Tensor],
    ) -> StepFunction:
        """As every GPU; a step of one token is one kernel, if it computes what its ops compute."""
        rehearses = isinstance(self._runtime, GpuRuntime) and self._runtime.rehearsing
        if bucket.num_tokens != 1 or rehearses or not self._has_walk():
            return super().compile(fn, bucket, kv, example)
        launcher = Launcher(self._device)
        tape = Tape(launcher)

        def taped(kv: Mapping[str, object], inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            with tape:
                return fn(kv, inputs)

        problem = self._problem(fn, taped, kv, example, launcher)
        if not problem and tape.instructions < _FEWEST * max(1, launcher.lists):
            problem = f"{tape.instructions} instructions in {launcher.lists} launches"
        if problem:
            self._refused += 1
            _logger.info("a step of one token is launched op by op: %s", problem)
            return super().compile(fn, bucket, kv, example)
        self._launchers.append(launcher)  # a graph keeps no tensor alive
        program = super().compile(taped, bucket, kv, example)
        launcher.finish()
        _logger.info(
            "a step of one token is %d instructions in %d launches",
            tape.instructions, launcher.lists,
        )  # fmt: skip
        return program

    def stats(self) -> ExecutorStats:
        """How many graphs, how long they took, which steps are launched op by op."""
        made = super().stats()
        fallbacks = {"one_token_step": self._refused} if self._refused else {}
        return ExecutorStats(
            compiles=made.compiles,
            compiles_after_start=made.compiles_after_start,
            compile_seconds=made.compile_seconds,
            fallbacks={**made.fallbacks, **fallbacks},
        )

    def _has_walk(self) -> bool:
        """Whether panels can come on-chip by themselves, and there is a compiler."""
        newest = self._api.get_device_capability(self._device) >= _OLDEST
        return newest and not compiler_problem()

    def _problem(
        self,
        fn: StepFunction,
        taped: StepFunction,
        kv: Mapping[str, object],
        example: Mapping[str, Tensor],
        launcher: Launcher,
    ) -> str:
        """Why the walk will not do, "" if it will."""
        want = fn(kv, example)
        try:
            got = taped(kv, example)
        except (NotTapedError, DeviceError) as reason:  # no order, no room, no compiler's leave
            return str(reason)
        self._api.synchronize(self._device)
        limit = _ROUNDED_LIMIT if launcher.rounds else _LIMIT
        for name in ("hidden", "logits"):
            if name not in want:
                continue
            truth = want[name].double()
            error = float((got[name].double() - truth).norm() / truth.norm().clamp(min=1e-30))
            _logger.info("one kernel a step: %s %.2g from the ops one by one", name, error)
            if not error <= limit:
                return f"its {name} differ by {error:.2g}"
        return ""
