"""AMD GPUs: what is found on this machine, and which parts serve a model on it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from inferplane.errors import ConfigError
from inferplane.interfaces import (
    Capabilities,
    Change,
    DeviceRuntime,
    EngineConfig,
    ModelShape,
    Probe,
    WorkerContext,
)
from inferplane.probing import pci_devices, read_text
from inferplane_rocm import _sdk
from inferplane_rocm.archs import fp8_flavour, has_bfloat16_matrices, is_served
from inferplane_triton.gpu.platform import TorchGpu, gpu_capabilities, visible_devices

__all__ = ["Rocm"]

_PCI_VENDOR = "0x1002"
_VARIABLES = ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
_PROMPTS = (
    "triton (default): the shared kernels and torch's own attention; aiter: whole prompts go to "
    "the package aiter, on gfx942 and gfx950"
)


class Rocm(TorchGpu):
    """The kernel driver's topology says what is there; no HIP process is started to find out.

    torch calls these devices "cuda" as well: the name of the plugin tells them apart.
    """

    _name: ClassVar[str] = "rocm"
    _collectives: ClassVar[str] = "nccl"

    def __init__(self, root: Path = Path("/")) -> None:
        """`root`: the file system whose /dev and /sys are read."""
        self._root = root

    def probe(self, env: Mapping[str, str]) -> Probe:
        """Driver and GPUs first, then the Python stack; both variables of visibility count."""
        archs = _gpu_archs(self._root)
        versions = _sdk.versions()
        driver = read_text(self._root / "sys/module/amdgpu/version")
        if driver:
            versions["amdgpu"] = driver
        reason = _driver_problem(self._root, archs)
        if reason:
            return Probe(False, reason, versions=versions)
        left, hidden = visible_devices(len(archs), env, _VARIABLES)
        arch = archs[left[0]] if left else archs[0]
        found = (
            f"{len(left) or len(archs)} x {', '.join(sorted({archs[i] for i in left} or archs))}"
        )
        reason = hidden or _unserved(arch) or _sdk.problem()
        if reason:
            reason = f"{found} found, but {reason}"
            return Probe(False, reason, device_count=len(left), arch=arch, versions=versions)
        return Probe(
            True,
            f"{found}, HIP {versions['hip']}",
            score=50,
            device_count=len(left),
            arch=arch,
            versions=versions,
        )

    def capabilities(self, probe: Probe, model: ModelShape | None) -> Capabilities:
        """What every GPU here has; the fp8 flavour and bfloat16 follow the generation."""
        wide = has_bfloat16_matrices(probe.arch)
        caps = gpu_capabilities(
            ("bfloat16", "float16", "float32") if wide else ("float16", "float32"),
            fp8_flavour(probe.arch),
        )
        return replace(caps, options={**caps.options, "prompts": _PROMPTS})

    def resolve(
        self, config: EngineConfig, caps: Capabilities, model: ModelShape
    ) -> tuple[Change, ...]:
        """Checks only, as for every GPU."""
        prompts = config.options.get("prompts", "triton")
        if prompts not in ("triton", "aiter"):
            raise ConfigError(
                f"option prompts={prompts!r} of device rocm: it takes triton or aiter"
            )
        if prompts == "aiter" and (missing := _sdk.AITER.problem()):
            raise ConfigError(f"option prompts=aiter of device rocm: {missing}")
        return super().resolve(config, caps, model)

    def create_device(self, context: WorkerContext) -> DeviceRuntime:
        from inferplane_rocm.runtime import RocmRuntime  # torch must not reach the planner

        return RocmRuntime(context)


def _gpu_archs(root: Path) -> list[str]:
    """gfx name of every GPU node of the kernel driver, in node order; processors are nodes too."""
    archs = []
    folder = root / "sys/class/kfd/kfd/topology/nodes"
    for path in sorted(folder.glob("*/properties"), key=_node_number):
        properties = dict(
            line.split(maxsplit=1) for line in read_text(path).splitlines() if " " in line.strip()
        )
        version = properties.get("gfx_target_version", "0").strip()
        if version.isdigit() and int(version) > 0:
            archs.append(_gfx_name(int(version)))
    return archs


def _node_number(path: Path) -> int:
    name = path.parent.name
    return int(name) if name.isdigit() else 0


def _gfx_name(version: int) -> str:
    """90402 -> gfx942, 90010 -> gfx90a, 120001 -> gfx1201: minor and stepping are hexadecimal."""
    return f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}"


def _driver_problem(root: Path, archs: list[str]) -> str:
    kfd = root / "dev/kfd"
    if not kfd.exists():
        if pci_devices(root, _PCI_VENDOR):
            return (
                "an AMD device is on the PCI bus, but /dev/kfd is missing: load the amdgpu driver"
            )
        return "no AMD GPU found: /dev/kfd is missing and the PCI bus shows no AMD device"
    if not archs:
        return "the amdgpu driver is loaded (/dev/kfd exists), but it reports no GPU"
    if not os.access(kfd, os.R_OK | os.W_OK):
        found = f"{len(archs)} x {', '.join(sorted(set(archs)))}"
        return (
            f"{found} found, but /dev/kfd cannot be opened by this user: join its group, "
            "usually `render`"
        )
    return ""


def _unserved(arch: str) -> str:
    if is_served(arch):
        return ""
    return (
        f"{arch} is not among the generations served (gfx90a, gfx942, gfx950, gfx11, gfx12); "
        "if another GPU is there, name it in HIP_VISIBLE_DEVICES"
    )
