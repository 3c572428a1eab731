"""AMD GPUs: what is found on this machine. This release detects them and serves nothing on them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from inferplane.errors import DeviceUnavailableError
from inferplane.interfaces import (
    Capabilities,
    Change,
    EngineConfig,
    ModelShape,
    Platform,
    Probe,
)
from inferplane.probing import pci_devices, read_text
from inferplane_rocm import _sdk

__all__ = ["Rocm"]

_PCI_VENDOR = "0x1002"


class Rocm(Platform):
    """The kernel driver's topology says what is there; no HIP process is started to find out."""

    def __init__(self, root: Path = Path("/")) -> None:
        """`root`: the file system whose /dev and /sys are read."""
        self._root = root

    def probe(self, env: Mapping[str, str]) -> Probe:
        """Driver and GPUs first, then the Python stack. Score 0: `auto` must not choose it yet."""
        archs = _gpu_archs(self._root)
        versions = _sdk.versions()
        driver = read_text(self._root / "sys/module/amdgpu/version")
        if driver:
            versions["amdgpu"] = driver
        found = f"{len(archs)} x {', '.join(sorted(set(archs)))}"
        hidden, count = _visible(env, len(archs))
        reason = _driver_problem(self._root, archs)
        if not reason and hidden:
            reason = f"{found} found, but {hidden}"
        if not reason and (missing := _sdk.problem()):
            reason = f"{found} found, but {missing}"
        arch = archs[0] if archs else ""
        if reason:
            return Probe(False, reason, device_count=count, arch=arch, versions=versions)
        return Probe(
            True,
            f"{found}, HIP {versions['hip']}; this release detects it and cannot serve on it",
            device_count=count,
            arch=arch,
            versions=versions,
        )

    def capabilities(self, probe: Probe, model: ModelShape | None) -> Capabilities:
        """Facts of the generation; everything a missing executor would have to obey stays off."""
        return Capabilities(
            labels=("triton",),
            compute_dtypes=("bfloat16", "float16", "float32"),
            fp8=_fp8_flavour(probe.arch),
        )

    def resolve(
        self, config: EngineConfig, caps: Capabilities, model: ModelShape
    ) -> tuple[Change, ...]:
        """Always refuses: there is no executor behind the probe yet."""
        raise DeviceUnavailableError(
            "inferplane-rocm of this release only detects AMD GPUs, it cannot run a model on them; "
            "use --device cpu, or another device that `inferplane plugins list` shows as usable"
        )


def _gpu_archs(root: Path) -> list[str]:
    """gfx name of every GPU node of the kernel driver, in node order; processors are nodes too."""
    archs = []
    for path in sorted(root.glob("sys/class/kfd/kfd/topology/nodes/*/properties")):
        properties = dict(
            line.split(maxsplit=1) for line in read_text(path).splitlines() if " " in line
        )
        version = properties.get("gfx_target_version", "0").strip()
        if version.isdigit() and int(version) > 0:
            archs.append(_gfx_name(int(version)))
    return archs


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
        return "/dev/kfd cannot be opened by this user: join its group, usually `render`"
    return ""


def _visible(env: Mapping[str, str], count: int) -> tuple[str, int]:
    """(why no device is left, or "", and how many are): two variables select devices."""
    named = {k: env[k] for k in ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES") if k in env}
    if len(set(named.values())) > 1:
        return "HIP_VISIBLE_DEVICES and CUDA_VISIBLE_DEVICES disagree: set one of them", count
    for name, value in named.items():
        chosen = [part for part in value.split(",") if part.strip() not in ("", "-1")]
        if not chosen:
            return f"{name} hides every device", 0
        count = min(count, len(chosen))
    return "", count


def _fp8_flavour(arch: str) -> Literal["none", "e4m3fn", "e4m3fnuz"]:
    """The same byte means another number on gfx942: maximum 240, 0x80 is NaN."""
    if arch == "gfx942":
        return "e4m3fnuz"
    return "e4m3fn" if arch == "gfx950" or arch.startswith("gfx12") else "none"
