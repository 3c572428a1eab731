"""One program a bucket through the SDK's backend of torch.compile."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from inferplane.errors import DeviceError
from inferplane.execution.own_code import own_code
from inferplane.interfaces import Bucket, ExecutorStats, GraphCompiler, StepFunction
from inferplane_gaudi._sdk import Stack

__all__ = ["HpuCompiler"]

_logger = logging.getLogger(__name__)


class HpuCompiler(GraphCompiler):
    """Whole graphs of fixed shapes. Every graph that reaches the SDK is counted, whoever asked."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._lower: Callable[..., Any] = torch._dynamo.lookup_backend(stack.compile_backend)
        self._graphs = self._late = 0
        self._seconds = 0.0
        self._sealed = False

    def compile(
        self,
        fn: StepFunction,
        bucket: Bucket,
        kv: Mapping[str, object],
        example: Mapping[str, Tensor],
    ) -> StepFunction:
        """Trace, compile and run once; `example` fixes shapes and dtypes."""
        began = time.perf_counter()
        run = torch.compile(
            own_code(lambda inputs: fn(kv, inputs)),
            backend=self._backend,
            fullgraph=True,
            dynamic=False,
        )

        def program(kv: Mapping[str, object], inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            outputs: Mapping[str, Tensor] = run(dict(inputs))
            return outputs

        try:
            program(kv, example)
        except Exception as error:  # torch's tracer and the vendor's compiler raise their own kinds
            raise DeviceError(f"compiling {bucket} failed: {error}") from error
        self._seconds += time.perf_counter() - began
        return program

    def seal(self) -> None:
        """From here on compiles are counted as late; what ran on the host so far is told."""
        self._sealed = True
        fallbacks = self._stack.host_fallbacks()
        if fallbacks:
            _logger.warning(
                "%d operations of the warm-up ran on the host: steps wait for them", fallbacks
            )

    def stats(self) -> ExecutorStats:
        """Graphs made, and operations the host ran for the device, which are hidden waits."""
        return ExecutorStats(
            compiles=self._graphs,
            compiles_after_start=self._late,
            compile_seconds=self._seconds,
            host_syncs=self._stack.host_fallbacks(),
        )

    def fingerprint(self) -> str:
        """What programs were made by."""
        return f"{self._stack.compile_backend}-torch{torch.__version__}"

    def _backend(self, module: GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        self._graphs += 1
        self._late += self._sealed
        lowered: Callable[..., Any] = self._lower(module, inputs)
        return lowered
