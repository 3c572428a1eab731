"""AWS Trainium and Inferentia: what is found here. This release serves nothing on them."""

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
from inferplane_neuron import _sdk

__all__ = ["Neuron"]

_PCI_VENDOR = "0x1d0f"
_GENERATIONS = {
    "0x7164": "trn1",
    "0x7264": "inf2",
    "0x7364": "trn2",
    "0x7564": "trn3",
    "0x7565": "trn3",
}
"""PCI device id -> generation; the vendor's network and disk functions are no chips."""
_TOO_OLD = ("0x7064", "0x7065", "0x7066", "0x7067")
"""First generation (inf1): another SDK, which cannot run decoders."""


class Neuron(Platform):
    """PCI bus and kernel driver say what is there; the SDK is not loaded to find out."""

    def __init__(self, root: Path = Path("/")) -> None:
        """`root`: the file system whose /dev and /sys are read."""
        self._root = root

    def probe(self, env: Mapping[str, str]) -> Probe:
        """Chips and driver first, then the Python stack. Score 0: `auto` must not choose it yet."""
        seen = pci_devices(self._root, _PCI_VENDOR)
        chips = [_GENERATIONS[device] for device in seen if device in _GENERATIONS]
        versions = _sdk.versions()
        driver = read_text(self._root / "sys/module/neuron/version")
        if driver:
            versions["neuron driver"] = driver
        arch = chips[0] if chips else ""
        found = f"{len(chips)} x {arch}"
        reason = _driver_problem(self._root, found if chips else "", seen)
        if not reason and (missing := _sdk.problem()):
            reason = f"{found} found, but {missing}"
        if reason:
            return Probe(False, reason, device_count=len(chips), arch=arch, versions=versions)
        return Probe(
            True,
            f"{found}, torch-neuronx {versions['torch-neuronx']}; "
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
            "inferplane-neuron of this release only detects Trainium and Inferentia, it cannot run "
            "a model on them; use --device cpu, or another device that `inferplane plugins list` "
            "shows as usable"
        )


def _driver_problem(root: Path, found: str, seen: tuple[str, ...]) -> str:
    if not found:
        if any(device in _TOO_OLD for device in seen):
            return "only first-generation Inferentia (inf1) found: its SDK cannot run decoders"
        return "no Trainium or Inferentia found: the PCI bus shows no chip of a known generation"
    if not list(root.glob("dev/neuron[0-9]*")):
        return (
            f"{found} on the PCI bus, but /dev/neuron* is missing: load the driver (module neuron)"
        )
    return ""
