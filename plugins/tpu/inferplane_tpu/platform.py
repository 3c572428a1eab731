"""Google TPUs: what is found on this host. This release detects them and serves nothing on them."""

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
from inferplane.probing import pci_devices
from inferplane_tpu import _sdk

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


class Tpu(Platform):
    """The PCI bus says what is there; `libtpu` is never loaded to find out, it is exclusive."""

    def __init__(self, root: Path = Path("/")) -> None:
        """`root`: the file system whose /dev and /sys are read."""
        self._root = root

    def probe(self, env: Mapping[str, str]) -> Probe:
        """Chips and driver first, then the Python stack. Score 0: `auto` must not choose it yet."""
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
            f"{found}, torch-xla {versions['torch-xla']}; "
            "this release detects it and cannot serve on it",
            device_count=len(chips),
            arch=arch,
            versions=versions,
        )

    def capabilities(self, probe: Probe, model: ModelShape | None) -> Capabilities:
        """Facts of the family; everything a missing executor would have to obey stays off."""
        return Capabilities(compute_dtypes=("bfloat16", "float32"))

    def resolve(
        self, config: EngineConfig, caps: Capabilities, model: ModelShape
    ) -> tuple[Change, ...]:
        """Always refuses: there is no compiler behind the probe yet."""
        raise DeviceUnavailableError(
            "inferplane-tpu of this release only detects TPUs, it cannot run a model on them; "
            "use --device cpu, or another device that `inferplane plugins list` shows as usable"
        )


def _driver_problem(root: Path, found: str) -> str:
    """Chips appear as /dev/accel* (up to v4) or as /dev/vfio/<number> (since v5)."""
    if not found:
        return "no TPU found: the PCI bus shows no chip of a known generation"
    nodes = [*root.glob("dev/accel[0-9]*"), *root.glob("dev/vfio/[0-9]*")]
    if not nodes:
        return f"{found} on the PCI bus, but neither /dev/accel* nor /dev/vfio/* exists: no driver"
    return ""
