"""One captured graph a bucket: a decode step costs one launch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from inferplane.errors import DeviceError
from inferplane.interfaces import (
    Bucket,
    DeviceRuntime,
    ExecutorStats,
    GraphCompiler,
    StepFunction,
)
from inferplane_triton.gpu.runtime import GpuRuntime

__all__ = ["GpuGraphs"]

_GRAPH = {"cuda": "CUDAGraph", "xpu": "XPUGraph"}


class GpuGraphs(GraphCompiler):
    """Captures whole steps. All graphs share one pool: only one runs at a time."""

    def __init__(self, device: DeviceRuntime) -> None:
        self._runtime = device
        self._device = torch.device(device.torch_device)
        self._api = torch.get_device_module(self._device)
        self._pool = self._api.graph_pool_handle()
        self._compiles = self._after_seal = 0
        self._seconds = 0.0
        self._sealed = False

    def compile(
        self,
        fn: StepFunction,
        bucket: Bucket,
        kv: Mapping[str, object],
        example: Mapping[str, Tensor],
    ) -> StepFunction:
        """Run once, which compiles kernels and sizes workspaces, then capture.

        `example` holds the addresses that every later upload for this bucket must use. While the
        device rehearses nothing is captured: what comes back runs the step op by op.
        """
        if isinstance(self._runtime, GpuRuntime) and self._runtime.rehearsing:
            return fn
        began = time.perf_counter()
        graph = getattr(self._api, _GRAPH[self._device.type])()
        try:
            fn(kv, example)
            self._api.synchronize(self._device)
            with self._api.graph(graph, pool=self._pool):
                outputs = fn(kv, example)
        except torch.OutOfMemoryError as error:
            raise DeviceError(
                f"no memory left to capture {bucket}; lower memory_fraction or max_num_seqs, or "
                f"set option graphs=off: {error}"
            ) from error
        except RuntimeError as error:
            raise DeviceError(f"capturing {bucket} failed: {error}") from error
        self._compiles += 1
        self._after_seal += self._sealed
        self._seconds += time.perf_counter() - began
        return _Replay(graph, bucket, example, outputs)

    def before_replay(self, bucket: Bucket, host: tuple[object, ...]) -> None:
        """Host parts that can be called are: plans that a backend makes outside of its capture."""
        for part in host:
            if callable(part):
                part()

    def seal(self) -> None:
        """From here on compiles are counted as late."""
        self._sealed = True

    def stats(self) -> ExecutorStats:
        """How many graphs, and how long they took."""
        return ExecutorStats(
            compiles=self._compiles,
            compiles_after_start=self._after_seal,
            compile_seconds=self._seconds,
        )

    def fingerprint(self) -> str:
        """Graphs live in memory only; this names what the kernels were built with."""
        return f"{self._api.get_device_name(self._device)}-torch{torch.__version__}"


class _Replay:
    """A captured step: called like the function it was made from."""

    __slots__ = ("_addresses", "_bucket", "_graph", "_inputs", "_outputs")

    def __init__(
        self,
        graph: Any,
        bucket: Bucket,
        inputs: Mapping[str, Tensor],
        outputs: Mapping[str, Tensor],
    ) -> None:
        self._graph = graph
        self._bucket = bucket
        self._inputs = dict(inputs)  # keeps them alive
        self._addresses = {name: tensor.data_ptr() for name, tensor in inputs.items()}
        self._outputs = outputs

    def __call__(
        self, kv: Mapping[str, object], inputs: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """Replay. The outputs are overwritten by the next replay. Raises DeviceError."""
        for name, address in self._addresses.items():
            if inputs[name].data_ptr() != address:
                raise DeviceError(f"input {name!r} of {self._bucket} moved after its capture")
        try:
            self._graph.replay()
        except RuntimeError as error:
            raise DeviceError(f"replaying {self._bucket} failed: {error}") from error
        return self._outputs
