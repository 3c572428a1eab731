"""NVIDIA GPUs: what is found on this machine, and which parts serve a model on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from inferplane.errors import ConfigError
from inferplane.interfaces import (
    Allocator,
    Capabilities,
    Change,
    DeviceRuntime,
    EngineConfig,
    GraphCompiler,
    ModelShape,
    Probe,
    WorkerContext,
)
from inferplane_cuda import _sdk
from inferplane_triton.gpu.platform import TorchGpu, gpu_capabilities, visible_devices

__all__ = ["Cuda"]

_OLDEST = (7, 5)
_ONE_KERNEL = (
    "on (default): a captured step of one token is one kernel that stays on the device, where the "
    "model's ops allow it; off: a kernel an op"
)
_MEMORY = (
    "cached (default): in torch's own cache; pages: weights and KV on pages that sleep can give "
    "back"
)


class Cuda(TorchGpu):
    """The driver says what is there; the parts are those of every GPU, and FlashAttention 3."""

    _name: ClassVar[str] = "cuda"
    _collectives: ClassVar[str] = "nccl"

    def probe(self, env: Mapping[str, str]) -> Probe:
        """Driver and devices first, then torch and Triton; CUDA_VISIBLE_DEVICES is honoured."""
        machine, versions = _sdk.read_machine(), _sdk.versions()
        if machine.driver:
            versions["driver"] = machine.driver
        if machine.problem:
            return Probe(False, machine.problem, versions=versions)
        left, hidden = visible_devices(len(machine.gpus), env, ("CUDA_VISIBLE_DEVICES",))
        if hidden:
            return Probe(False, hidden, versions=versions)
        first = machine.gpus[left[0]]
        arch = f"sm_{first.major}{first.minor}"
        found = f"{len(left)} x {first.name}, driver {machine.driver}"
        reason = _sdk.problem()
        if not reason and (first.major, first.minor) < _OLDEST:
            oldest = ".".join(map(str, _OLDEST))
            reason = f"compute capability {first.major}.{first.minor} is below {oldest}"
        if reason:
            reason = f"{found} found, but {reason}"
            return Probe(False, reason, device_count=len(left), arch=arch, versions=versions)
        return Probe(
            True,
            f"{found}, CUDA {versions['cuda']}",
            score=50,
            device_count=len(left),
            arch=arch,
            versions=versions,
        )

    def capabilities(self, probe: Probe, model: ModelShape | None) -> Capabilities:
        """bfloat16 from sm_80, fp8 from sm_89."""
        generation = int(probe.arch.removeprefix("sm_") or 0)
        wide = generation >= 80
        shared = gpu_capabilities(
            ("bfloat16", "float16", "float32") if wide else ("float16", "float32"),
            "e4m3fn" if generation >= 89 else "none",
        )
        return replace(
            shared,
            prefer={**shared.prefer, "attention": ("coded", "cuda", "triton")},
            options={**shared.options, "memory": _MEMORY, "one_kernel": _ONE_KERNEL},
        )

    def resolve(
        self, config: EngineConfig, caps: Capabilities, model: ModelShape
    ) -> tuple[Change, ...]:
        """As for every GPU, and where memory comes from."""
        value = config.options.get("memory", "cached")
        if value not in ("pages", "cached"):
            raise ConfigError(f"option memory={value!r} of device cuda: it takes cached or pages")
        if value == "pages" and (missing := _sdk.BINDINGS.problem()):
            raise ConfigError(f"option memory='pages' of device cuda: {missing}")
        if (value := config.options.get("one_kernel", "on")) not in ("on", "off"):
            raise ConfigError(f"option one_kernel={value!r} of device cuda: it takes on or off")
        return super().resolve(config, caps, model)

    def create_compiler(
        self, context: WorkerContext, device: DeviceRuntime
    ) -> GraphCompiler | None:
        if context.config.options.get("one_kernel") == "off" or not context.shapes.buckets():
            return super().create_compiler(context, device)
        from inferplane_cuda.persistent.compiler import StepGraphs  # torch stays out of the planner

        return StepGraphs(device)

    def worker_env(self, config: EngineConfig, rank: int) -> Mapping[str, str]:
        """Segments that grow in place: no fragmentation between prompts of all lengths."""
        return {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}

    def create_device(self, context: WorkerContext) -> DeviceRuntime:
        from inferplane_cuda.runtime import CudaRuntime  # torch must not reach the planner

        return CudaRuntime(context)

    def create_allocator(self, context: WorkerContext, device: DeviceRuntime) -> Allocator:
        if context.config.options.get("memory") != "pages":
            from inferplane_triton.gpu.allocator import GpuAllocator  # likewise

            return GpuAllocator(device, ": start with --option memory=pages")
        from inferplane_cuda.memory.allocator import PagedAllocator  # likewise

        return PagedAllocator(device)
