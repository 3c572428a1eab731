"""What GPUs have in common for the planner; each vendor's platform adds how it is found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

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
    SamplerCaps,
    SchedulerLimits,
    ShapePolicy,
    Topology,
    WorkerContext,
)
from inferplane_triton.gpu.shapes import StepLadder

__all__ = ["TorchGpu", "gpu_capabilities", "visible_devices"]

_GRAPHS = {
    "on": "on (default): small steps are captured; off: every step runs eagerly",
    "off": "off (default): every step runs eagerly; on: small steps are captured",
}
_PLACEMENT = (
    "inline (default for one device): inside the engine's process, which saves a hop "
    "each step; worker: a process of its own, so that requests outlive a broken driver"
)


class TorchGpu(Platform):
    """A GPU behind torch's streams and graphs, with the Triton kernels.

    A subclass names itself and says what it found. Every method up to `shapes` runs where no device
    may be initialised.
    """

    _name: ClassVar[str]
    """As it is registered."""
    _collectives: ClassVar[str]
    """torch.distributed's name of the vendor's library."""
    _graphs: ClassVar[Literal["on", "off"]] = "on"
    """Whether small steps are captured unless asked otherwise."""

    def resolve(
        self, config: EngineConfig, caps: Capabilities, model: ModelShape
    ) -> tuple[Change, ...]:
        """Checks only: what cannot work is refused here, with what can."""
        for option, choices in (("graphs", ("on", "off")), ("placement", ("inline", "worker"))):
            value = config.options.get(option, choices[0])
            if value not in choices:
                raise ConfigError(
                    f"option {option}={value!r} of device {self._name}: it takes "
                    f"{' or '.join(choices)}"
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

    def shapes(self, config: EngineConfig, caps: Capabilities) -> ShapePolicy:
        """A graph a decode batch size and a short prompt's length; other steps run eagerly."""
        if config.options.get("graphs", self._graphs) == "off":
            return ShapePolicy()
        return StepLadder(config.max_num_seqs, config.max_batched_tokens)

    def create_device(self, context: WorkerContext) -> DeviceRuntime:
        from inferplane_triton.gpu.runtime import GpuRuntime  # torch must not reach the planner

        return GpuRuntime(context)

    def create_allocator(self, context: WorkerContext, device: DeviceRuntime) -> Allocator:
        from inferplane_triton.gpu.allocator import GpuAllocator  # likewise

        return GpuAllocator(device)

    def create_compiler(
        self, context: WorkerContext, device: DeviceRuntime
    ) -> GraphCompiler | None:
        if not context.shapes.buckets():
            return None
        from inferplane_triton.gpu.graphs import GpuGraphs  # likewise

        return GpuGraphs(device)

    def create_communicator(
        self, context: WorkerContext, device: DeviceRuntime
    ) -> Communicator | None:
        if context.config.tensor_parallel == 1:
            return None
        from inferplane_triton.gpu.communicator import GpuCommunicator  # likewise

        return GpuCommunicator(context, device, self._collectives)


def gpu_capabilities(
    compute_dtypes: tuple[str, ...],
    fp8: Literal["none", "e4m3fn", "e4m3fnuz"],
    graphs: Literal["on", "off"] = "on",
) -> Capabilities:
    """What the shared parts and kernels can do; the vendor's generation decides the dtypes."""
    return Capabilities(
        labels=("triton",),
        compute_dtypes=compute_dtypes,
        kv_dtypes=("auto", "int8", "fp8"),
        kv_layouts=("nhd",),
        fp8=fp8,
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
        options={"graphs": _GRAPHS[graphs], "placement": _PLACEMENT},
    )


def visible_devices(
    found: int, env: Mapping[str, str], variables: Sequence[str]
) -> tuple[tuple[int, ...], str]:
    """(indices of the devices left, why none is, or ""): variables take indices or other ids.

    Of an id that is no index only the presence counts: it names the first device. Drivers ignore
    everything after an unknown device. Two variables that disagree are a reason.
    """
    named = {name: env[name] for name in variables if name in env}
    if len(set(named.values())) > 1:
        return (), f"{' and '.join(named)} disagree: set one of them"
    for name, value in named.items():
        left = []
        for part in value.split(","):
            word = part.strip()
            if word in ("", "-1") or (word.isdigit() and int(word) >= found):
                break
            left.append(int(word) if word.isdigit() else 0)
        if not left:
            return (), f"{name}={value!r} hides every device of {found}"
        return tuple(left), ""
    return tuple(range(found)), ""
