"""Intel Gaudi: what is found on this machine, and which parts serve it; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from inferplane.errors import ConfigError
from inferplane.interfaces import (
    Allocator,
    Capabilities,
    Change,
    Communicator,
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
from inferplane.probing import pci_devices, read_text
from inferplane_gaudi import _sdk
from inferplane_gaudi.buckets import LADDERS, StepBuckets
from inferplane_gaudi.environment import worker_environment

__all__ = ["Gaudi"]

_BLOCK_SIZE = 128
_OPTIONS = {
    "buckets": "sizes that are compiled: exponential (default) or linear",
    "recipe_cache": "folder that keeps compiled programs between starts (default: none)",
}
_PCI_VENDOR = "0x1da3"
_GENERATIONS = {"0x100": "gaudi", "0x101": "gaudi", "0x102": "gaudi2", "0x106": "gaudi3"}
"""First three digits of the PCI device id -> generation; the last one is the board."""


_FP8: Mapping[str, Literal["range240", "e4m3fn"]] = {"gaudi2": "range240", "gaudi3": "e4m3fn"}
"""Generation -> what its fp8 codes mean: up to 240, or up to 448. Source: `get_fullscale` of Intel
Neural Compressor, the vendor's quantisation toolkit, which scales by these."""


class Gaudi(Platform):
    """PCI bus and kernel driver say what is there; the SDK is not loaded to find out."""

    def __init__(self, root: Path = Path("/")) -> None:
        """`root`: the file system whose /dev and /sys are read."""
        self._root = root

    def probe(self, env: Mapping[str, str]) -> Probe:
        """Cards and driver first, then the Python stack."""
        cards = [
            _GENERATIONS[device[:5]]
            for device in pci_devices(self._root, _PCI_VENDOR)
            if device[:5] in _GENERATIONS
        ]
        versions = _sdk.versions()
        driver = read_text(self._root / "sys/module/habanalabs/version")
        if driver:
            versions["habanalabs"] = driver
        arch = cards[0] if cards else ""
        found = f"{len(cards)} x {arch}"
        reason = _driver_problem(self._root, found if cards else "")
        if not reason and (missing := _sdk.problem()):
            reason = f"{found} found, but {missing}"
        if reason:
            return Probe(False, reason, device_count=len(cards), arch=arch, versions=versions)
        return Probe(
            True,
            f"{found}, habana-torch-plugin {versions['habana-torch-plugin']}",
            score=50,
            device_count=len(cards),
            arch=arch,
            versions=versions,
        )

    def capabilities(self, probe: Probe, model: ModelShape | None) -> Capabilities:
        """Fixed shapes; the range of fp8 is stated only for generations it is known of."""
        fp8: Literal["none", "range240", "e4m3fn"] = _FP8.get(probe.arch, "none")
        return Capabilities(
            compute_dtypes=("bfloat16", "float32"),
            kv_dtypes=("bfloat16", "float32", "int8", *(("fp8",) if fp8 != "none" else ())),
            fp8=fp8,
            block_multiple=_BLOCK_SIZE,
            static_shapes=True,
            limits=SchedulerLimits(
                max_prefill_seqs=None,
                mix_prefill_decode=False,
                chunked_prefill=True,
                async_steps=1,
                prefix_cache=True,
                prefer_low_block_ids=True,
            ),
            # arrays of one number a row keep the shapes of their bucket; what is ragged (penalties,
            # bias, logprobs) would compile for each length, so the core's sampler draws such rows
            sampler=SamplerCaps(params=("temperature", "top_k", "top_p", "min_p", "seed")),
            options=_OPTIONS,
        )

    def resolve(
        self, config: EngineConfig, caps: Capabilities, model: ModelShape
    ) -> tuple[Change, ...]:
        """Checks only: what cannot work is refused here, with what can."""
        ladder = config.options.get("buckets", "exponential")
        if ladder not in LADDERS:
            raise ConfigError(f"option buckets={ladder!r}: it takes {' or '.join(LADDERS)}")
        folder = config.options.get("recipe_cache", "")
        if "," in folder:
            raise ConfigError(f"option recipe_cache={folder!r}: a comma ends the path for the SDK")
        for name, heads in (("heads", model.num_heads), ("KV heads", model.num_kv_heads)):
            if heads % config.tensor_parallel:
                raise ConfigError(
                    f"tensor_parallel {config.tensor_parallel} does not divide {heads} {name}"
                )
        return ()

    def topology(self, config: EngineConfig, caps: Capabilities) -> Topology:
        """A process a card, which the SDK holds until that process ends."""
        return Topology(config.tensor_parallel, 1, "worker")

    def worker_env(self, config: EngineConfig, rank: int) -> Mapping[str, str]:
        """What must be set before the SDK is imported."""
        cache = config.options.get("recipe_cache", "")
        return worker_environment(rank, config.tensor_parallel, cache)

    def shapes(self, config: EngineConfig, caps: Capabilities) -> ShapePolicy:
        """Prompts and decodes apart; sizes by the option `buckets`."""
        return StepBuckets(
            config.max_num_seqs,
            config.max_batched_tokens,
            config.max_model_len,
            config.block_size or _BLOCK_SIZE,
            LADDERS[config.options.get("buckets", "exponential")],
        )

    def create_device(self, context: WorkerContext) -> DeviceRuntime:
        from inferplane_gaudi.runtime import HpuRuntime  # torch must not reach the planner

        return HpuRuntime(self._open())

    def create_kv_store(
        self, context: WorkerContext, device: DeviceRuntime, allocator: Allocator
    ) -> KVStore:
        from inferplane_gaudi.kv_store import FlatKVStore  # likewise

        return FlatKVStore(device, allocator, context.caps.fp8)

    def create_compiler(self, context: WorkerContext, device: DeviceRuntime) -> GraphCompiler:
        from inferplane_gaudi.compiler import HpuCompiler  # likewise
        from inferplane_gaudi.runtime import HpuRuntime

        assert isinstance(device, HpuRuntime)
        return HpuCompiler(device.stack)

    def create_communicator(
        self, context: WorkerContext, device: DeviceRuntime
    ) -> Communicator | None:
        if context.config.tensor_parallel == 1:
            return None
        from inferplane_gaudi.communicator import HpuCommunicator  # likewise
        from inferplane_gaudi.runtime import HpuRuntime

        assert isinstance(device, HpuRuntime)
        return HpuCommunicator(context, device.stack)

    def _open(self) -> _sdk.Stack:
        """The SDK, in the worker."""
        return _sdk.open_stack()


def _driver_problem(root: Path, found: str) -> str:
    """The driver shows cards as /dev/accel/accel<n>; other vendors' cards are there as well."""
    if not found:
        return "no Gaudi found: the PCI bus shows no card of a known generation"
    nodes = [
        folder
        for folder in root.glob("sys/class/accel/accel[0-9]*")
        if read_text(folder / "device/vendor") == _PCI_VENDOR
        and (root / "dev/accel" / folder.name).exists()
    ]
    if not nodes:
        return (
            f"{found} on the PCI bus, but no /dev/accel/accel* belongs to it: load the driver "
            "(module habanalabs)"
        )
    return ""
