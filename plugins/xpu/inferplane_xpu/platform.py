"""Intel GPUs: what is found on this machine; the parts are those of every GPU."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from inferplane.interfaces import (
    Capabilities,
    DeviceRuntime,
    ModelShape,
    Probe,
    WorkerContext,
)
from inferplane.probing import pci_devices, read_text
from inferplane_triton.gpu.platform import TorchGpu, gpu_capabilities, visible_devices
from inferplane_xpu import _sdk

__all__ = ["Xpu"]

_PCI_VENDOR = "0x8086"
_GENERATIONS = {
    "0x0b": "Max",
    "0x56": "Arc A",
    "0xe2": "Arc B",
}
"""First two digits of the PCI device id -> generation; the vendor's other chips begin otherwise."""


class Xpu(TorchGpu):
    """PCI bus and render nodes say what is there. Capturing steps is experimental, so it is off."""

    _name: ClassVar[str] = "xpu"
    _collectives: ClassVar[str] = "xccl"
    _graphs: ClassVar[Literal["on", "off"]] = "off"

    def __init__(self, root: Path = Path("/")) -> None:
        """`root`: the file system whose /dev and /sys are read."""
        self._root = root

    def probe(self, env: Mapping[str, str]) -> Probe:
        """Cards, driver and rights, then the Python stack; ZE_AFFINITY_MASK is honoured."""
        cards = [
            _GENERATIONS[device[:4]]
            for device in pci_devices(self._root, _PCI_VENDOR)
            if len(device) == 6 and device[:4] in _GENERATIONS
        ]
        versions = _sdk.versions()
        if not cards:
            reason = "no Intel GPU found: the PCI bus shows no discrete card of a known generation"
            return Probe(False, reason, versions=versions)
        left, hidden = visible_devices(len(cards), env, ("ZE_AFFINITY_MASK",))
        arch = cards[left[0]] if left else cards[0]
        found = f"{len(left) or len(cards)} x {arch}"
        reason = hidden or _driver_problem(self._root) or _sdk.problem()
        if reason:
            reason = f"{found} found, but {reason}"
            return Probe(False, reason, device_count=len(left), arch=arch, versions=versions)
        return Probe(
            True,
            f"{found}, torch {versions['torch']}",
            score=50,
            device_count=len(left),
            arch=arch,
            versions=versions,
        )

    def capabilities(self, probe: Probe, model: ModelShape | None) -> Capabilities:
        """bfloat16 everywhere; fp8 is left to the core's reference."""
        return gpu_capabilities(("bfloat16", "float16", "float32"), "none", self._graphs)

    def create_device(self, context: WorkerContext) -> DeviceRuntime:
        from inferplane_xpu.runtime import XpuRuntime  # torch must not reach the planner

        return XpuRuntime(context)


def _driver_problem(root: Path) -> str:
    """Other vendors' cards have render nodes as well, so the vendor is compared."""
    nodes = [
        root / "dev/dri" / folder.name
        for folder in root.glob("sys/class/drm/renderD[0-9]*")
        if read_text(folder / "device/vendor") == _PCI_VENDOR
    ]
    if not any(node.exists() for node in nodes):
        return "no /dev/dri/renderD* belongs to it: load the driver (module xe or i915)"
    if not any(os.access(node, os.R_OK | os.W_OK) for node in nodes):
        return "/dev/dri/renderD* cannot be opened by this user: join its group, usually `render`"
    return ""
