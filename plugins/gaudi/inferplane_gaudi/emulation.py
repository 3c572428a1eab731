"""An entry module of its own: the device "gaudi-emulated", for those who name this module.

`INFERPLANE_PLUGINS=inferplane_gaudi.emulation` offers it; an installed plugin does not, so that
nobody takes an emulation for hardware. A shim on disk answers for the SDK: its device is the
processor, its compiler the core's emulation of one that specialises on shapes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from inferplane.hookspecs import Register, hookimpl
from inferplane.interfaces import Capabilities, ModelShape, Probe
from inferplane_gaudi import _sdk
from inferplane_gaudi.platform import Gaudi
from inferplane_gaudi.plugin import register_attention, register_quantization_kernels

if TYPE_CHECKING:
    from inferplane_gaudi._sdk import Stack

__all__ = ["EmulatedGaudi", "register_attention", "register_quantization_kernels"]

INTERFACE_VERSION = (1, 0)

_SHIM = Path(__file__).with_name("emulated_sdk")


@hookimpl
def register_platforms(register: Register) -> None:
    register("gaudi-emulated", "inferplane_gaudi.emulation:EmulatedGaudi")


class EmulatedGaudi(Gaudi):
    """Everything but SDK and card is the plugin's own; it passes for a gaudi2."""

    def probe(self, env: Mapping[str, str]) -> Probe:
        """It needs torch alone. Score 0: `auto` never chooses it."""
        if find_spec("torch") is None:
            return Probe(False, "the emulation needs torch: pip install torch")
        reason = "emulated: a shim in the SDK's place, programs run by the processor"
        return Probe(True, reason, device_count=2, arch="gaudi2")

    def capabilities(self, probe: Probe, model: ModelShape | None) -> Capabilities:
        """The card's; parts registered for `gaudi` serve here too."""
        return replace(super().capabilities(probe, model), labels=("gaudi",))

    def _open(self) -> Stack:
        with _importable(_SHIM):
            stack = _sdk.open_stack()
        return replace(stack, torch_device="cpu", collectives="gloo")


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """The import path with `folder` first, for as long as it takes."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
