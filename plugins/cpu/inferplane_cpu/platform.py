"""The host processor as a platform: facts, settings, and which parts serve it; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from inferplane.errors import ConfigError, UnsupportedError
from inferplane.interfaces import (
    Allocator,
    Capabilities,
    Change,
    DeviceRuntime,
    EngineConfig,
    Executor,
    GraphCompiler,
    KVStore,
    ModelShape,
    Platform,
    Probe,
    SamplerCaps,
    SchedulerLimits,
    ShapePolicy,
    Topology,
    WorkerContext,
)
from inferplane_cpu.encoders import option as encoders
from inferplane_cpu.host import Host, read_host
from inferplane_cpu.native.library import NATIVE, find_library
from inferplane_cpu.native.tiles import OPTION as AMX_OPTION
from inferplane_cpu.native.tiles import check_option
from inferplane_cpu.sizes import parse_bytes
from inferplane_cpu.threads import plan_threads

__all__ = ["Cpu"]

_GIB = 1 << 30
_MOST_KV_BYTES = 4 * _GIB
_OPTIONS = {
    "kv_memory": "memory for the KV cache, such as 8GiB (default: a quarter of what the process "
    "may use, at most 4GiB)",
    "threads": "compute threads (default: one a physical core, and from four cores on one core is "
    "left to the front end)",
    AMX_OPTION: "auto, or off: many rows are multiplied by vectors even where there is AMX "
    "(default: auto; the kernels prove themselves at start)",
    encoders.OPTION: "native, or onnx: BERT and RoBERTa run in ONNX Runtime, which the extra onnx "
    "installs (default: native)",
}


class Cpu(Platform):
    """One engine over the processors this process may use."""

    def __init__(self, root: Path = Path("/"), cpus: frozenset[int] | None = None) -> None:
        """`root` and `cpus` as in `read_host`."""
        self._root = root
        self._cpus = cpus

    def probe(self, env: Mapping[str, str]) -> Probe:
        """Every machine has a processor; what may be missing is torch."""
        host = read_host(self._root, self._cpus)
        if find_spec("torch") is None:
            return Probe(False, "torch is not installed: pip install 'inferplane[cpu]'")
        return Probe(
            True,
            _told(host, self._kernels(host)),
            score=10,
            device_count=max(len(host.cores), 1),
            arch=host.arch,
            versions={"torch": metadata.version("torch")},
        )

    def capabilities(self, probe: Probe, model: ModelShape | None) -> Capabilities:
        """bfloat16 first where the processor multiplies it or the native kernels widen it, which
        read half the bytes; not at all where it would be torch's alone.
        """
        native = self._is_native()
        bf16 = native or probe.arch in ("amx", "avx512_bf16")
        dtypes = ("bfloat16", "float32") if bf16 else ("float32",)
        return Capabilities(
            labels=(NATIVE,) if native else (),
            compute_dtypes=dtypes,
            kv_dtypes=(*dtypes, "int8", "fp8"),
            kv_layouts=("panels", "nhd", "hnd") if native else ("nhd", "hnd"),
            # Half of a block is lost for each sequence: with 32 tokens that is 5 % of a chat-like
            # mix of lengths, with 16 less than 3 %.
            block_multiple=16,
            limits=SchedulerLimits(
                max_prefill_seqs=None,
                mix_prefill_decode=True,
                chunked_prefill=True,
                max_drafts=8,
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
                max_logprobs=1024,
            ),
            sleep=True,
            prefer={"attention": ("native", "paged")},
            options=_OPTIONS,
        )

    def resolve(
        self, config: EngineConfig, caps: Capabilities, model: ModelShape
    ) -> tuple[Change, ...]:
        """Options are checked here, so that mistakes show before anything is loaded."""
        host = read_host(self._root, self._cpus)
        self._kv_bytes(config, host)
        plan_threads(host, config.options.get("threads", ""))
        check_option(config.options.get(AMX_OPTION, ""))
        if config.tensor_parallel > len(host.cores):
            raise ConfigError(
                f"tensor_parallel {config.tensor_parallel}: this process may use "
                f"{len(host.cores)} cores"
            )
        changes = encoders.changes(config, model)
        if config.memory_fraction != 1.0:
            reason = "option kv_memory sizes the KV cache here, not a share of the host's memory"
            return (*changes, Change("memory_fraction", 1.0, reason))
        return changes

    def topology(self, config: EngineConfig, caps: Capabilities) -> Topology:
        """Inside the engine, which saves two context switches a step; ranks have processes."""
        if config.tensor_parallel == 1:
            return Topology(1, 1, "inline")
        return Topology(config.tensor_parallel, 1, "worker")

    def worker_env(self, config: EngineConfig, rank: int) -> Mapping[str, str]:
        """Thread counts, which OpenMP reads once."""
        host = read_host(self._root, self._cpus)
        asked = config.options.get("threads", "")
        return plan_threads(host, asked, rank, config.tensor_parallel).environment()

    def shapes(self, config: EngineConfig, caps: Capabilities) -> ShapePolicy:
        """One bucket above the scheduler's maximum where a native program serves every shape."""
        if not self._compiles(config):
            return ShapePolicy()
        from inferplane_cpu.compiler.shapes import OneProgram  # only where there is a compiler

        return OneProgram(config.max_batched_tokens, config.max_num_seqs)

    def create_executor(self, context: WorkerContext) -> Executor | None:
        """ONNX Runtime where the option asks for it; else the core's."""
        config = context.config
        if not encoders.wants_onnx(config):
            return None
        from inferplane_cpu.encoders.executor import OnnxEncoder  # an extra, and torch as below

        host = read_host(self._root, self._cpus)
        return OnnxEncoder(context, plan_threads(host, config.options.get("threads", "")).count)

    def create_compiler(
        self, context: WorkerContext, device: DeviceRuntime
    ) -> GraphCompiler | None:
        """Native programs; ranks exchange sums between ops, which a program cannot."""
        from inferplane_cpu.compiler.step_compiler import StepCompiler  # torch, as below
        from inferplane_cpu.runtime import CpuRuntime

        assert isinstance(device, CpuRuntime)
        if not self._compiles(context.config) or device.machine is None:
            return None
        config, drafts = context.config, context.caps.limits.max_drafts
        return StepCompiler(
            device.machine,
            config.max_model_len + drafts,
            config.max_num_seqs * (1 + drafts),
            {"matrix tiles": 1} if device.tiles.refused else {},
        )

    def create_device(self, context: WorkerContext) -> DeviceRuntime:
        """The processor with its thread policy and KV budget."""
        from inferplane_cpu.runtime import CpuRuntime  # torch, which the planner must not load

        host = read_host(self._root, self._cpus)
        config = context.config
        threads = plan_threads(
            host, config.options.get("threads", ""), context.rank, config.tensor_parallel
        )
        kv_bytes = self._kv_bytes(config, host) // config.tensor_parallel
        return CpuRuntime(threads, kv_bytes, host.flags, config.options.get(AMX_OPTION, ""))

    def create_allocator(self, context: WorkerContext, device: DeviceRuntime) -> Allocator:
        """Maps that cost nothing until they are written."""
        from inferplane_cpu.allocator import HostAllocator  # torch, as above

        return HostAllocator()

    def create_kv_store(
        self, context: WorkerContext, device: DeviceRuntime, allocator: Allocator
    ) -> KVStore:
        """The core's store over such a map, with the layout of the native kernels."""
        from inferplane_cpu.allocator import HostAllocator  # torch, as above
        from inferplane_cpu.native.store import PanelKVStore

        assert isinstance(allocator, HostAllocator)
        return PanelKVStore(device, allocator, allocator.map)

    def _kernels(self, host: Host) -> str:
        """Which compiled kernels this processor gets; nothing is loaded."""
        try:
            name = find_library(host.flags).stem.rpartition("_")[2]
        except UnsupportedError:
            return "no compiled kernels"
        return f"kernels for {name}" + (" and amx" if host.arch == "amx" else "")

    def _is_native(self) -> bool:
        """Whether compiled kernels for this processor are installed."""
        try:
            find_library(read_host(self._root, self._cpus).flags)
        except UnsupportedError:
            return False
        return True

    def _compiles(self, config: EngineConfig) -> bool:
        return self._is_native() and config.tensor_parallel == 1

    def _kv_bytes(self, config: EngineConfig, host: Host) -> int:
        asked = config.options.get("kv_memory", "")
        if asked:
            amount = parse_bytes("option kv_memory", asked)
            if host.memory_bytes and amount > host.memory_bytes:
                raise ConfigError(
                    f"option kv_memory={asked!r}: this process may use "
                    f"{host.memory_bytes / _GIB:.1f}GiB in all"
                )
            return amount
        return min(host.memory_bytes // 4 or _GIB, _MOST_KV_BYTES)


def _told(host: Host, kernels: str) -> str:
    cores = f"{host.num_cores} core{'s' if host.num_cores > 1 else ''}"
    parts = [host.model, cores, host.arch]
    if len(host.nodes) > 1:
        parts.append(f"{len(host.nodes)} NUMA nodes")
    if host.quota:
        parts.append(f"{host.quota:g} processors granted")
    if host.memory_bytes:
        parts.append(f"{host.memory_bytes / _GIB:.1f}GiB")
    parts.append(kernels)
    return ", ".join(parts)
