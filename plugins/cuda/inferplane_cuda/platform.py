"""NVIDIA GPUs: what is found on this machine, and which parts serve a model on it."""

from __future__ import annotations

from collections.abc import Mapping

from inferplane.errors import ConfigError
from inferplane.interfaces import (
    Allocator,
    Capabilities,
    Change,
    Communicator,
    DeviceRuntime,
    EngineConfig,
    GraphCompiler,
    ModelShape,
    Platform,
    Probe,
    SamplerCaps,
    SchedulerLimits,
    ShapePolicy,
    Topology,
    WorkerContext,
)
from inferplane_cuda import _sdk
from inferplane_cuda.shapes import StepLadder

__all__ = ["Cuda"]

_OLDEST = (7, 5)
_OPTIONS = {
    "graphs": "on (default): small steps are captured; off: every step runs eagerly",
    "placement": "inline (default for one device): inside the engine's process, which saves a hop "
    "each step; worker: a process of its own, so that requests outlive a broken driver",
}


class Cuda(Platform):
    """Every method up to `shapes` runs where no device may be initialised."""

    def probe(self, env: Mapping[str, str]) -> Probe:
        """Driver and devices first, then torch and Triton; CUDA_VISIBLE_DEVICES is honoured."""
        machine, versions = _sdk.read_machine(), _sdk.versions()
        if machine.driver:
            versions["driver"] = machine.driver
        if machine.problem:
            return Probe(False, machine.problem, versions=versions)
        gpus, hidden = _visible(machine.gpus, env.get("CUDA_VISIBLE_DEVICES"))
        if hidden:
            return Probe(False, hidden, versions=versions)
        first = gpus[0]
        arch = f"sm_{first.major}{first.minor}"
        found = f"{len(gpus)} x {first.name}, driver {machine.driver}"
        reason = _sdk.problem()
        if not reason and (first.major, first.minor) < _OLDEST:
            oldest = ".".join(map(str, _OLDEST))
            reason = f"compute capability {first.major}.{first.minor} is below {oldest}"
        if reason:
            reason = f"{found} found, but {reason}"
            return Probe(False, reason, device_count=len(gpus), arch=arch, versions=versions)
        return Probe(
            True,
            f"{found}, CUDA {versions['cuda']}",
            score=50,
            device_count=len(gpus),
            arch=arch,
            versions=versions,
        )

    def capabilities(self, probe: Probe, model: ModelShape | None) -> Capabilities:
        """bfloat16 from sm_80, fp8 from sm_89."""
        generation = int(probe.arch.removeprefix("sm_") or 0)
        wide = generation >= 80
        return Capabilities(
            labels=("triton",),
            compute_dtypes=("bfloat16", "float16", "float32") if wide else ("float16", "float32"),
            kv_layouts=("nhd",),
            fp8="e4m3fn" if generation >= 89 else "none",
            limits=SchedulerLimits(
                max_prefill_seqs=None,
                mix_prefill_decode=True,
                chunked_prefill=True,
                async_steps=1,
                prefix_cache=True,
            ),
            sampler=SamplerCaps(
                params=(
                    "temperature",
                    "top_k",
                    "top_p",
                    "min_p",
                    "seed",
                    "logprobs",
                    "prompt_logprobs",
                    "penalties",
                    "bias",
                    "bitmask",
                ),
                max_logprobs=20,
            ),
            prefer={"attention": ("triton",)},
            options=_OPTIONS,
        )

    def resolve(
        self, config: EngineConfig, caps: Capabilities, model: ModelShape
    ) -> tuple[Change, ...]:
        """Checks only: what cannot work is refused here, with what can."""
        for name, choices in (("graphs", ("on", "off")), ("placement", ("inline", "worker"))):
            value = config.options.get(name, choices[0])
            if value not in choices:
                raise ConfigError(
                    f"option {name}={value!r} of device cuda: it takes {' or '.join(choices)}"
                )
        if config.options.get("placement") == "inline" and config.tensor_parallel > 1:
            raise ConfigError(
                f"placement=inline serves one device, not tensor_parallel="
                f"{config.tensor_parallel}; leave out the option"
            )
        return ()

    def topology(self, config: EngineConfig, caps: Capabilities) -> Topology:
        """One device runs inside the engine's process unless asked otherwise; several cannot."""
        if config.tensor_parallel == 1 and config.options.get("placement") != "worker":
            return Topology(placement="inline")
        return Topology(config.tensor_parallel)

    def worker_env(self, config: EngineConfig, rank: int) -> Mapping[str, str]:
        """Segments that grow in place: no fragmentation between prompts of all lengths."""
        return {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}

    def shapes(self, config: EngineConfig, caps: Capabilities) -> ShapePolicy:
        """A graph a decode batch size and a short prompt's length; other steps run eagerly."""
        if config.options.get("graphs") == "off":
            return ShapePolicy()
        return StepLadder(config.max_num_seqs, config.max_batched_tokens)

    def create_device(self, context: WorkerContext) -> DeviceRuntime:
        from inferplane_cuda.runtime import CudaRuntime  # torch must not reach the planner

        return CudaRuntime(context)

    def create_allocator(self, context: WorkerContext, device: DeviceRuntime) -> Allocator:
        from inferplane_cuda.allocator import CudaAllocator  # likewise

        return CudaAllocator(device)

    def create_compiler(self, context: WorkerContext, device: DeviceRuntime) -> GraphCompiler:
        from inferplane_cuda.graphs import CudaGraphs  # likewise

        return CudaGraphs(device)

    def create_communicator(
        self, context: WorkerContext, device: DeviceRuntime
    ) -> Communicator | None:
        if context.config.tensor_parallel == 1:
            return None
        from inferplane_cuda.communicator import NcclCommunicator  # likewise

        return NcclCommunicator(context, device)


def _visible(gpus: tuple[_sdk.Gpu, ...], chosen: str | None) -> tuple[tuple[_sdk.Gpu, ...], str]:
    """(devices left, why none is, or ""): the variable takes indices; other ids only count."""
    if chosen is None:
        return gpus, ""
    left = []
    for part in chosen.split(","):
        word = part.strip()
        if word in ("", "-1") or (word.isdigit() and int(word) >= len(gpus)):
            break  # the driver ignores everything after an unknown device
        left.append(gpus[int(word)] if word.isdigit() else gpus[0])
    if not left:
        return (), f"CUDA_VISIBLE_DEVICES={chosen!r} hides every device of {len(gpus)}"
    return tuple(left), ""
