"""What the TPU platform says of hosts described on disk."""

from pathlib import Path

import pytest

from inferplane.testing.fake_sdk import write_files, write_sdk
from inferplane_tpu.platform import Tpu

MUST_NOT_RUN = "raise RuntimeError('a probe must not import this')"
PCI = "sys/bus/pci/devices"
FOUR_CHIPS = {
    f"{PCI}/0000:00:0{n}.0/{name}": text
    for n in range(4)
    for name, text in (("vendor", "0x1ae0\n"), ("device", "0x006f\n"))
}
NODES = {f"dev/vfio/{n}": "" for n in range(4)}
NETWORK = {f"{PCI}/0000:00:09.0/vendor": "0x1ae0", f"{PCI}/0000:00:09.0/device": "0x0042"}


def machine(tmp_path: Path, files: dict[str, str]) -> Tpu:
    return Tpu(write_files(tmp_path / "machine", files))


def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dists: dict[str, str]) -> None:
    modules = dict.fromkeys(("torch_xla", "torch", "libtpu"), MUST_NOT_RUN)
    monkeypatch.syspath_prepend(str(write_sdk(tmp_path / "site", modules, dists)))


def test_a_network_card_of_the_same_vendor_is_no_chip(tmp_path: Path) -> None:
    probe = machine(tmp_path, NETWORK).probe({})
    assert not probe.ok and probe.device_count == 0 and "no TPU found" in probe.reason


def test_chips_without_a_driver_name_the_missing_nodes(tmp_path: Path) -> None:
    probe = machine(tmp_path, FOUR_CHIPS).probe({})
    assert not probe.ok and "4 x TPU v6e on the PCI bus, but neither /dev/accel*" in probe.reason


def test_chips_without_torch_xla_say_what_to_install(tmp_path: Path) -> None:
    probe = machine(tmp_path, FOUR_CHIPS | NODES).probe({})
    assert not probe.ok and "torch-xla is not installed: 2.9.0" in probe.reason
    assert probe.device_count == 4 and probe.arch == "v6e"


def test_a_torch_that_torch_xla_cannot_work_with_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {"torch-xla": "2.9.0", "torch": "2.13.0+cpu", "libtpu": "0.0.52"}
    install(tmp_path, monkeypatch, versions)
    probe = machine(tmp_path, FOUR_CHIPS | NODES).probe({})
    assert not probe.ok and "torch 2.13.0+cpu does not fit" in probe.reason


def test_chips_and_stack_are_found_without_importing_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {"torch-xla": "2.9.0", "torch": "2.9.0+cpu", "libtpu": "0.0.52"}
    install(tmp_path, monkeypatch, versions)
    probe = machine(tmp_path, FOUR_CHIPS | NODES).probe({})
    assert probe.ok and probe.device_count == 4 and probe.versions["libtpu"] == "0.0.52"
    assert probe.score == 50


def test_an_empty_package_of_the_same_name_is_recognised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = write_sdk(tmp_path / "site", {"torch_xla": "#"}, {"torch-xla": "0.1"})
    monkeypatch.syspath_prepend(str(site))
    probe = machine(tmp_path, FOUR_CHIPS | NODES).probe({})
    assert not probe.ok and "torch-xla 0.1 is an empty placeholder of" in probe.reason
