"""One GPU through torch: one packed upload a step, downloads that nobody waits for too early."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from inferplane.errors import DeviceError
from inferplane.execution.download import Download
from inferplane.interfaces import (
    Array,
    Bucket,
    DeviceRuntime,
    MemoryReport,
    WorkerContext,
)
from inferplane_triton.compiling.rehearsal import Rehearsal
from inferplane_triton.gpu.upload import InputLayout

__all__ = ["GpuRuntime"]

_STAGES = 4
"""Pinned buffers in turn: with one step ahead, none is written before its copy is over."""
_GRAPH_BYTES = 512 << 20
_LARGE_BYTES = 32 << 10
"""Uploads from here on take longer than moving them once more."""
_ROOM = 64 << 10
"""Bytes behind a bucket's inputs for sampling parameters, which differ from step to step."""


class GpuRuntime(DeviceRuntime):
    """Steps and downloads run on the device's current stream, and so keep their order.

    Nothing but `Pending.result()` and `synchronize` waits for the device.
    """

    kind: ClassVar[str] = "cuda"

    def __init__(self, context: WorkerContext) -> None:
        self.torch_device = f"{self.kind}:{context.local_rank}"
        self._device = torch.device(self.torch_device)
        self._api = torch.get_device_module(self._device)
        self._api.set_device(self._device)
        rows, vocabulary = context.config.max_num_seqs, context.model.vocab_size
        self._reserved = _GRAPH_BYTES + 2 * 4 * rows * vocabulary
        self._staging = _Staging(self._device)
        self._inputs: dict[Bucket, InputLayout] = {}
        # ranks that rehearse apart would wait for each other in collectives
        alone = context.config.tensor_parallel == 1
        self._rehearsal = Rehearsal(context.cache) if alone else None

    def memory(self) -> MemoryReport:
        """As the driver counts now; graphs keep their own logits and activations."""
        free, total = self._api.mem_get_info(self._device)
        return MemoryReport(total, free, reserved=self._reserved)

    def synchronize(self) -> None:
        """Wait for everything enqueued. Raises DeviceError."""
        try:
            self._api.synchronize(self._device)
        except RuntimeError as error:
            raise DeviceError(f"{self.torch_device} failed: {error}") from error

    def to_device(self, arrays: Mapping[str, Array], bucket: Bucket | None) -> Mapping[str, Tensor]:
        """One copy for all arrays; with a bucket into the same bytes every call.

        A bucket's first call fixes the places of its arrays; what comes beside them in later calls
        goes into the room behind, or, if that is too small, into a copy of its own.
        """
        beside: Mapping[str, Array] = {}
        if bucket is None:
            layout = InputLayout(arrays, self._device)
        else:
            held = self._inputs.get(bucket)
            if held is None:
                held = self._inputs[bucket] = InputLayout(arrays, self._device, _ROOM)
            layout, beside = held, held.place(arrays)
        try:
            self._staging.send(arrays, layout)
            if not beside:
                return layout.tensors(arrays)
            extra = InputLayout(beside, self._device)
            self._staging.send(beside, extra)
        except RuntimeError as error:
            raise DeviceError(f"the upload to {self.torch_device} failed: {error}") from error
        return {**layout.tensors(arrays), **extra.tensors(beside)}

    def to_host(self, tensors: Mapping[str, Tensor]) -> Download:
        """Enqueue the copies behind the step; `result()` waits for them."""
        copies = {}
        for name, tensor in tensors.items():
            held = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            held.copy_(tensor, non_blocking=True)
            copies[name] = held
        return Download(copies, _mark(self._api).synchronize)

    def guard(self) -> AbstractContextManager[None]:
        """Inference mode."""
        return torch.inference_mode()

    @property
    def rehearsing(self) -> bool:
        """Whether kernels are noted now, not launched."""
        return self._rehearsal is not None and self._rehearsal.active

    def rehearsal(self, last: bool) -> AbstractContextManager[bool]:
        """Triton's kernels, compiled by processes beside this one if no start has made them yet."""
        return super().rehearsal(last) if self._rehearsal is None else self._rehearsal.run(last)

    def close(self) -> None:
        """Forget the buffers and give cached memory back."""
        if self._rehearsal is not None:
            self._rehearsal.close()
        self._inputs.clear()
        self._api.empty_cache()


@dataclass(slots=True)
class _Stage:
    """One pinned buffer and, for large uploads, where they land on the device."""

    pinned: Tensor
    landing: Tensor
    sent: Any = None
    """Over when the pinned buffer may be written again."""
    taken: Any = None
    """Over when the landing may be written again."""


class _Staging:
    """Pinned host buffers used in turn.

    A large upload goes beside the steps under way, on a stream of its own, and is then moved to its
    place in a moment; behind them it would keep the device idle for as long as it takes.
    """

    def __init__(self, device: torch.device) -> None:
        self._stages = [
            _Stage(torch.empty(0, dtype=torch.uint8), torch.empty(0, dtype=torch.uint8))
            for _ in range(_STAGES)
        ]
        self._device = device
        self._api = torch.get_device_module(device)
        self._beside = self._api.Stream(device)
        self._next = 0

    def send(self, arrays: Mapping[str, Array], layout: InputLayout) -> None:
        """Pack those of `arrays` that `layout` holds, and enqueue one copy."""
        stage = self._stages[self._next]
        self._next = (self._next + 1) % _STAGES
        if stage.sent is not None:
            stage.sent.synchronize()  # over long ago, unless the caller runs several steps ahead
        if len(stage.pinned) < len(layout.buffer):
            stage.pinned = torch.empty(len(layout.buffer), dtype=torch.uint8, pin_memory=True)
        size = layout.pack(arrays, stage.pinned.numpy())
        if size < _LARGE_BYTES:
            layout.buffer[:size].copy_(stage.pinned[:size], non_blocking=True)
            stage.sent = _mark(self._api)
        else:
            self._send_beside(stage, layout, size)

    def _send_beside(self, stage: _Stage, layout: InputLayout, size: int) -> None:
        if len(stage.landing) < size:
            stage.landing = torch.empty(len(stage.pinned), dtype=torch.uint8, device=self._device)
            self._beside.wait_event(_mark(self._api))  # the memory may have had another use
        if stage.taken is not None:
            self._beside.wait_event(stage.taken)
        with self._api.stream(self._beside):
            stage.landing[:size].copy_(stage.pinned[:size], non_blocking=True)
            stage.sent = _mark(self._api)
        self._api.current_stream(self._device).wait_event(stage.sent)
        layout.buffer[:size].copy_(stage.landing[:size], non_blocking=True)
        stage.taken = _mark(self._api)


def _mark(api: Any) -> Any:
    """An event that is over when everything enqueued so far is."""
    event = api.Event()
    event.record()
    return event
