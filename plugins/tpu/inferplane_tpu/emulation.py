"""An entry module of its own: the device "tpu-emulated", for those who name this module.

`INFERPLANE_PLUGINS=inferplane_tpu.emulation` offers it; an installed plugin does not, so that
nobody takes an emulation for hardware.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from inferplane.hookspecs import Register, hookimpl
from inferplane.interfaces import EngineConfig, Probe, WorkerContext
from inferplane_tpu.platform import Tpu

if TYPE_CHECKING:
    from inferplane_tpu.compiler import Driver

__all__ = ["EmulatedTpu"]

INTERFACE_VERSION = (1, 0)


@hookimpl
def register_platforms(register: Register) -> None:
    register("tpu-emulated", "inferplane_tpu.emulation:EmulatedTpu")


@hookimpl
def register_attention(register: Register) -> None:
    on = ("tpu-emulated",)
    register("gathered", "inferplane_tpu.attention.paged:GatheredAttention", on=on)


@hookimpl
def register_quantization_kernels(register: Register) -> None:
    on = ("tpu-emulated",)
    register("tpu_integers", "inferplane_tpu.quantization.int8:IntegerWeights", on=on)


class EmulatedTpu(Tpu):
    """Everything but torch_xla and chip is the plugin's own."""

    def probe(self, env: Mapping[str, str]) -> Probe:
        """It needs torch alone. Score 0: `auto` never chooses it."""
        if find_spec("torch") is None:
            return Probe(False, "the emulation needs torch: pip install torch")
        return Probe(True, "emulated by torch.compile", device_count=1, arch="emulated")

    def worker_env(self, config: EngineConfig, rank: int) -> Mapping[str, str]:
        """There is no client to choose."""
        return {}

    def _driver(self, context: WorkerContext) -> Driver:
        from inferplane_tpu.emulated import EmulatedDriver  # torch must not reach the planner

        return EmulatedDriver()
