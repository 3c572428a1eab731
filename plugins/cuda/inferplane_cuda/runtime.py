"""One GPU through torch: one packed upload a step, downloads that nobody waits for too early."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from inferplane.errors import DeviceError
from inferplane.interfaces import (
    Array,
    Bucket,
    DeviceRuntime,
    MemoryReport,
    PromptAttention,
    WorkerContext,
)
from inferplane_cuda.attention.prompts import find_prompt_attention
from inferplane_cuda.upload import InputLayout

__all__ = ["CudaRuntime"]

_STAGES = 4
"""Pinned buffers in turn: with one step ahead, none is written before its copy is over."""
_GRAPH_BYTES = 512 << 20
_LARGE_BYTES = 32 << 10
"""Uploads from here on take longer than moving them once more."""
_ROOM = 64 << 10
"""Bytes behind a bucket's inputs for sampling parameters, which differ from step to step."""


class CudaRuntime(DeviceRuntime):
    """Steps and downloads run on the device's current stream, and so keep their order.

    Nothing but `Pending.result()` and `synchronize` waits for the device.
    """

    def __init__(self, context: WorkerContext) -> None:
        self.torch_device = f"cuda:{context.local_rank}"
        self._device = torch.device(self.torch_device)
        torch.cuda.set_device(self._device)
        rows, vocabulary = context.config.max_num_seqs, context.model.vocab_size
        self._reserved = _GRAPH_BYTES + 2 * 4 * rows * vocabulary
        self._staging = _Staging(self._device)
        self._inputs: dict[Bucket, InputLayout] = {}

    def memory(self) -> MemoryReport:
        """As the driver counts now; graphs keep their own logits and activations."""
        free, total = torch.cuda.mem_get_info(self._device)
        return MemoryReport(total, free, reserved=self._reserved)

    def synchronize(self) -> None:
        """Wait for everything enqueued. Raises DeviceError."""
        try:
            torch.cuda.synchronize(self._device)
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

    def to_host(self, tensors: Mapping[str, Tensor]) -> _Download:
        """Enqueue the copies behind the step; `result()` waits for them."""
        copies = {}
        for name, tensor in tensors.items():
            held = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            held.copy_(tensor, non_blocking=True)
            copies[name] = held
        return _Download(copies, _mark())

    def guard(self) -> AbstractContextManager[None]:
        """Inference mode."""
        return torch.inference_mode()

    def prompt_attention(self, head_dim: int, dtype: str) -> PromptAttention | None:
        """FlashAttention 3 where it is installed and the device is Hopper."""
        capability = torch.cuda.get_device_capability(self._device)
        return find_prompt_attention(capability, head_dim, dtype)

    def close(self) -> None:
        """Forget the buffers and give cached memory back."""
        self._inputs.clear()
        torch.cuda.empty_cache()


@dataclass(slots=True)
class _Stage:
    """One pinned buffer and, for large uploads, where they land on the device."""

    pinned: Tensor
    landing: Tensor
    sent: torch.cuda.Event | None = None
    """Over when the pinned buffer may be written again."""
    taken: torch.cuda.Event | None = None
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
        self._beside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
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
            stage.sent = _mark()
        else:
            self._send_beside(stage, layout, size)

    def _send_beside(self, stage: _Stage, layout: InputLayout, size: int) -> None:
        if len(stage.landing) < size:
            stage.landing = torch.empty(len(stage.pinned), dtype=torch.uint8, device=self._device)
            self._beside.wait_event(_mark())  # the memory may have had another use
        if stage.taken is not None:
            self._beside.wait_event(stage.taken)
        with torch.cuda.stream(self._beside):
            stage.landing[:size].copy_(stage.pinned[:size], non_blocking=True)
            stage.sent = _mark()
        torch.cuda.current_stream(self._device).wait_event(stage.sent)
        layout.buffer[:size].copy_(stage.landing[:size], non_blocking=True)
        stage.taken = _mark()


def _mark() -> torch.cuda.Event:
    """An event that is over when everything enqueued so far is."""
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return event


@dataclass(frozen=True, slots=True)
class _Download:
    copies: Mapping[str, Tensor]
    done: torch.cuda.Event

    def result(self) -> Mapping[str, Array]:
        """Wait, then the arrays. Raises DeviceError."""
        try:
            self.done.synchronize()
        except RuntimeError as error:
            raise DeviceError(f"a step failed on the device: {error}") from error
        return {name: tensor.numpy() for name, tensor in self.copies.items()}
