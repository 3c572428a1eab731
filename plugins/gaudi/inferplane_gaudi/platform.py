"""Intel Gaudi: what is found on this machine. This release detects it and serves nothing on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

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
from inferplane_gaudi import _sdk

__all__ = ["Gaudi"]

_PCI_VENDOR = "0x1da3"
_GENERATIONS = {"0x100": "gaudi", "0x101": "gaudi", "0x102": "gaudi2", "0x106": "gaudi3"}
"""First three digits of the PCI device id -> generation; the last one is the board."""


class Gaudi(Platform):
    """PCI bus and kernel driver say what is there; the SDK is not loaded to find out."""

    def __init__(self, root: Path = Path("/")) -> None:
        """`root`: the file system whose /dev and /sys are read."""
        self._root = root

    def probe(self, env: Mapping[str, str]) -> Probe:
        """Cards and driver first, then the Python stack. Score 0: `auto` must not choose it yet."""
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
            f"{found}, habana-torch-plugin {versions['habana-torch-plugin']}; "
            "this release detects it and cannot serve on it",
            device_count=len(cards),
            arch=arch,
            versions=versions,
        )

    def capabilities(self, probe: Probe, model: ModelShape | None) -> Capabilities:
        """Facts of the generation; everything a missing executor would have to obey stays off."""
        return Capabilities(
            compute_dtypes=("bfloat16", "float32"),
            fp8="range240" if probe.arch == "gaudi2" else "none",
            block_multiple=128,
        )

    def resolve(
        self, config: EngineConfig, caps: Capabilities, model: ModelShape
    ) -> tuple[Change, ...]:
        """Always refuses: there is no compiler behind the probe yet."""
        raise DeviceUnavailableError(
            "inferplane-gaudi of this release only detects Gaudi cards, it cannot run a model on "
            "them; use --device cpu, or another device that `inferplane plugins list` shows as "
            "usable"
        )


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
