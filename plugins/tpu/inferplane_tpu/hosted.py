"""An entry module of its own: the device "tpu" on XLA's client of the host processor.

`INFERPLANE_PLUGINS=inferplane_tpu.hosted` offers it in the chips' place; an installed plugin does
not, so that nobody takes a processor for a TPU. Everything but the chip is real: torch_xla, its
compiler, its cache of programs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from inferplane.hookspecs import Register, hookimpl
from inferplane.interfaces import EngineConfig, Probe, WorkerContext
from inferplane_tpu import _sdk
from inferplane_tpu.platform import Tpu

if TYPE_CHECKING:
    from inferplane_tpu.compiler import Driver

__all__ = ["HostedTpu"]

INTERFACE_VERSION = (1, 0)
_KV_BYTES = 1 << 30
_DEVICES = 8
"""The client makes as many devices of one processor as it is asked for."""


@hookimpl
def register_platforms(register: Register) -> None:
    register("tpu", "inferplane_tpu.hosted:HostedTpu")


@hookimpl
def register_attention(register: Register) -> None:
    """Without the Pallas kernel, which a host processor cannot run."""
    register("gathered", "inferplane_tpu.attention.paged:GatheredAttention", on=("tpu",))


@hookimpl
def register_quantization_kernels(register: Register) -> None:
    register("tpu_integers", "inferplane_tpu.quantization.int8:IntegerWeights", on=("tpu",))


class HostedTpu(Tpu):
    """No Pallas: attention is what XLA compiles by itself."""

    def probe(self, env: Mapping[str, str]) -> Probe:
        """It needs torch_xla alone. Score 0: `auto` never chooses it."""
        versions = _sdk.versions()
        if missing := _sdk.problem(chips=False):
            return Probe(False, f"XLA on the host processor: {missing}", versions=versions)
        told = f"no TPU: XLA's client of the host processor, torch-xla {versions['torch-xla']}"
        return Probe(True, told, device_count=_DEVICES, arch="host", versions=versions)

    def worker_env(self, config: EngineConfig, rank: int) -> Mapping[str, str]:
        """Read when torch_xla is loaded."""
        return {"PJRT_DEVICE": "CPU", "CPU_NUM_DEVICES": str(config.tensor_parallel)}

    def _driver(self, context: WorkerContext) -> Driver:
        from inferplane_tpu.xla import XlaDriver  # torch must not reach the planner

        config = context.config
        exact, devices = config.dtype == "float32", config.tensor_parallel
        return XlaDriver("CPU", context.cache, exact, kv_bytes=_KV_BYTES, devices=devices)
