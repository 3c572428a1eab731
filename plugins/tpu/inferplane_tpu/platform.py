"""Google TPUs: what is found on this host, and what compiled programs can serve on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from inferplane.errors import ConfigError
from inferplane.interfaces import (
    Allocator,
    Capabilities,
    Change,
    DeviceRuntime,
    EngineConfig,
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
from inferplane.probing import pci_devices
from inferplane.shapes import TokenGrid
from inferplane_tpu import _sdk
from inferplane_tpu.tiling import PALLAS, tiles

if TYPE_CHECKING:
    from inferplane_tpu.compiler import Driver

__all__ = ["Tpu"]

_PCI_VENDOR = "0x1ae0"
_GENERATIONS = {
    "0x0027": "v2/v3",
    "0x005e": "v4",
    "0x0062": "v5p",
    "0x0063": "v5e",
    "0x006f": "v6e",
    "0x0076": "v7x",
}
"""PCI device id -> generation; other devices of the vendor (network, disks) are no chips."""
_WITH_PALLAS = ("v4", "v5p", "v5e", "v6e", "v7x")
"""Generations that torch_xla's ragged attention is written for."""
_SCALAR_BYTES = 1 << 19
_LANES = 128
_MOST_GATHERED = 1 << 28
"""Elements that the tokens of one step may gather in a layer: at 2^24 a time, 16 pieces."""


class Tpu(Platform):
    """The PCI bus says what is there; `libtpu` is never loaded to find out, it is exclusive."""

    def __init__(self, root: Path = Path("/")) -> None:
        """`root`: the file system whose /dev and /sys are read."""
        self._root = root

    def probe(self, env: Mapping[str, str]) -> Probe:
        """Chips and driver first, then the Python stack."""
        chips = [
            _GENERATIONS[device]
            for device in pci_devices(self._root, _PCI_VENDOR)
            if device in _GENERATIONS
        ]
        versions = _sdk.versions()
        arch = chips[0] if chips else ""
        found = f"{len(chips)} x TPU {arch}"
        reason = _driver_problem(self._root, found if chips else "")
        if not reason and (missing := _sdk.problem()):
            reason = f"{found} found, but {missing}"
        if reason:
            return Probe(False, reason, device_count=len(chips), arch=arch, versions=versions)
        return Probe(
            True,
            f"{found}, torch-xla {versions['torch-xla']}",
            score=50,
            device_count=len(chips),
            arch=arch,
            versions=versions,
        )

    def capabilities(self, probe: Probe, model: ModelShape | None) -> Capabilities:
        """Steps of any mix; draws that have the shapes of their bucket on the device."""
        return Capabilities(
            labels=(PALLAS,) if probe.arch in _WITH_PALLAS else (),
            compute_dtypes=("bfloat16", "float32"),
            kv_layouts=("pages",),
            static_shapes=True,
            limits=SchedulerLimits(
                max_prefill_seqs=None,
                mix_prefill_decode=True,
                chunked_prefill=True,
                prefix_cache=True,
            ),
            # one number a row keeps the shapes of its bucket; what is ragged (penalties, bias,
            # log-probabilities) would compile for each length, so the core draws such rows
            sampler=SamplerCaps(params=("temperature", "top_k", "top_p", "min_p", "seed")),
            prefer={"attention": ("ragged", "gathered")},
        )

    def resolve(
        self, config: EngineConfig, caps: Capabilities, model: ModelShape
    ) -> tuple[Change, ...]:
        """Pages whose table fits on the chip; steps that the gathering attention can afford."""
        _check_shares(config, model)
        changes = []
        least = _least_block(config, caps)
        if config.block_size and config.block_size < least:
            raise ConfigError(
                f"block_size {config.block_size}: the page tables of {config.max_num_seqs} "
                f"requests of {config.max_model_len} tokens then exceed a chip's scalar memory; "
                f"accepted: multiples of {caps.block_multiple} from {least}"
            )
        if not config.block_size and least > caps.block_multiple:
            reason = "smaller pages need tables that exceed a chip's scalar memory"
            changes.append(Change("block_size", least, reason))
        attention = config.attention
        if attention == "auto" and PALLAS in caps.labels and config.tensor_parallel > 1:
            attention = "gathered"
            changes.append(Change("attention", attention, "the Pallas kernel runs on one chip"))
        if not _runs_ragged(attention, config, caps, model):
            most = max(_affordable_tokens(config, model), config.max_num_seqs)
            if config.max_batched_tokens > most:
                reason = "each token of a step gathers its whole context, not so with Pallas"
                changes.append(Change("max_batched_tokens", most, reason))
        return tuple(changes)

    def topology(self, config: EngineConfig, caps: Capabilities) -> Topology:
        """A process of its own, since `libtpu` belongs to one; it divides layers by itself."""
        return Topology(1, config.tensor_parallel)

    def worker_env(self, config: EngineConfig, rank: int) -> Mapping[str, str]:
        """Read when torch_xla is loaded."""
        return {"PJRT_DEVICE": "TPU"}

    def shapes(self, config: EngineConfig, caps: Capabilities) -> ShapePolicy:
        """Tokens double from 16; sequences are 8 or all, since each pair is a compilation."""
        few = min(8, config.max_num_seqs)
        return TokenGrid(config.max_batched_tokens, config.max_num_seqs, seqs=(few,))

    def create_device(self, context: WorkerContext) -> DeviceRuntime:
        from inferplane_tpu.runtime import TpuRuntime  # torch must not reach the planner

        return TpuRuntime(self._driver(context))

    def create_allocator(self, context: WorkerContext, device: DeviceRuntime) -> Allocator:
        """A ledger of the tensors that torch shows; those below it belong to XLA."""
        from inferplane_tpu.allocator import XlaAllocator  # as above

        return XlaAllocator(device.torch_device)

    def create_kv_store(
        self, context: WorkerContext, device: DeviceRuntime, allocator: Allocator
    ) -> KVStore:
        """Pages as the Pallas kernel reads them."""
        from inferplane_tpu.pages import PageStore  # as above
        from inferplane_tpu.runtime import TpuRuntime  # as above

        assert isinstance(device, TpuRuntime)
        return PageStore(device, allocator)

    def create_compiler(self, context: WorkerContext, device: DeviceRuntime) -> GraphCompiler:
        """Over the device's driver."""
        from inferplane_tpu.compiler import BucketCompiler  # as above
        from inferplane_tpu.runtime import TpuRuntime  # as above

        assert isinstance(device, TpuRuntime)
        return BucketCompiler(device.driver)

    def _driver(self, context: WorkerContext) -> Driver:
        """What makes programs; stand-ins for a chip have another."""
        from inferplane_tpu.xla import XlaDriver  # as above

        config = context.config
        exact, devices = config.dtype == "float32", config.tensor_parallel
        return XlaDriver("TPU", context.cache, exact, devices=devices)


def _check_shares(config: EngineConfig, model: ModelShape) -> None:
    """What cannot be divided over chips. Raises ConfigError."""
    chips = config.tensor_parallel
    if chips == 1:
        return
    told = f"tensor_parallel {chips}"
    for heads, what in ((model.num_heads, "attention heads"), (model.num_kv_heads, "KV heads")):
        if heads % chips:
            raise ConfigError(f"{told}: {heads} {what} do not divide over {chips} chips")
    if model.quantization:
        raise ConfigError(f"{told}: quantised weights are served on one chip, not divided yet")
    if config.attention == "ragged":
        raise ConfigError(f"{told}: attention=ragged runs on one chip; accepted: gathered")


def _runs_ragged(
    attention: str, config: EngineConfig, caps: Capabilities, model: ModelShape
) -> bool:
    """Whether attention costs what the tokens of a step cost, not what their tables hold."""
    dtype = model.dtype if config.dtype == "auto" else config.dtype
    served = PALLAS in caps.labels and tiles(model.num_kv_heads, dtype)
    return served and attention in ("auto", "ragged")


def _least_block(config: EngineConfig, caps: Capabilities) -> int:
    """The smallest block whose tables, i32[S,P], fit into scalar memory."""
    slots = config.max_num_seqs * config.max_model_len
    least = -(-4 * slots // _SCALAR_BYTES)
    return max(1, -(-least // caps.block_multiple)) * caps.block_multiple


def _affordable_tokens(config: EngineConfig, model: ModelShape) -> int:
    """How many tokens may gather `max_model_len` slots each, in all `_MOST_GATHERED` elements."""
    padded = -(-model.head_dim // _LANES) * _LANES
    return max(16, _MOST_GATHERED // (config.max_model_len * 2 * model.num_kv_heads * padded))


def _driver_problem(root: Path, found: str) -> str:
    """Chips appear as /dev/accel* (up to v4) or as /dev/vfio/<number> (since v5)."""
    if not found:
        return "no TPU found: the PCI bus shows no chip of a known generation"
    nodes = [*root.glob("dev/accel[0-9]*"), *root.glob("dev/vfio/[0-9]*")]
    if not nodes:
        return f"{found} on the PCI bus, but neither /dev/accel* nor /dev/vfio/* exists: no driver"
    return ""
