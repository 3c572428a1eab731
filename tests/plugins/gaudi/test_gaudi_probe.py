"""What the Gaudi platform says of machines described on disk."""

import sys
from pathlib import Path

import pytest

from inferplane.testing.fake_sdk import write_files, write_sdk
from inferplane_gaudi.platform import Gaudi

MUST_NOT_RUN = "raise RuntimeError('a probe must not import this')"
PCI = "sys/bus/pci/devices/0000:19:00.0"
CARD = {f"{PCI}/vendor": "0x1da3\n", f"{PCI}/device": "0x1020\n"}
DRIVER = {
    "sys/class/accel/accel0/device/vendor": "0x1da3\n",
    "dev/accel/accel0": "",
    "sys/module/habanalabs/version": "1.24.1-abc",
}
OTHER_VENDOR = {"sys/class/accel/accel0/device/vendor": "0x8086\n", "dev/accel/accel0": ""}
MODULES = {
    "habana_frameworks": MUST_NOT_RUN,
    "habana_frameworks.torch.hpu": MUST_NOT_RUN,
    "torch": MUST_NOT_RUN,
}


def machine(tmp_path: Path, files: dict[str, str]) -> Gaudi:
    return Gaudi(write_files(tmp_path / "machine", files))


def test_a_machine_without_a_card_says_so(tmp_path: Path) -> None:
    probe = machine(tmp_path, OTHER_VENDOR).probe({})
    assert not probe.ok and "no Gaudi found" in probe.reason and probe.device_count == 0


def test_the_accel_node_of_another_vendor_is_not_our_driver(tmp_path: Path) -> None:
    probe = machine(tmp_path, CARD | OTHER_VENDOR).probe({})
    assert not probe.ok and "1 x gaudi2 on the PCI bus, but no /dev/accel/accel*" in probe.reason


def test_a_card_without_the_sdk_says_where_it_comes_from(tmp_path: Path) -> None:
    probe = machine(tmp_path, CARD | DRIVER).probe({})
    assert not probe.ok and probe.versions["habanalabs"] == "1.24.1-abc"
    assert "habana-torch-plugin is not installed: 1.22 or newer comes from the vendor" in (
        probe.reason
    )


def test_an_old_or_empty_sdk_is_named_with_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version, told in (("1.21.0", "is too old"), ("0.0.1", "is an empty placeholder")):
        modules = {"empty": ""} if version == "0.0.1" else {"habana_frameworks": "#" * 70_000}
        site = write_sdk(tmp_path / version, modules, {"habana-torch-plugin": version})
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(site))
            probe = machine(tmp_path, CARD | DRIVER).probe({})
        assert not probe.ok and f"habana-torch-plugin {version} {told}" in probe.reason


def test_an_sdk_without_its_module_is_a_placeholder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "habana_frameworks", raising=False)  # the emulation's
    site = write_sdk(tmp_path / "site", {"empty": ""}, {"habana-torch-plugin": "1.24.1"})
    monkeypatch.syspath_prepend(str(site))
    probe = machine(tmp_path, CARD | DRIVER).probe({})
    assert not probe.ok and "provides no module habana_frameworks" in probe.reason


def test_card_driver_and_sdk_are_found_without_importing_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dists = {"habana-torch-plugin": "1.24.1.492", "torch": "2.11.0+hpu"}
    monkeypatch.syspath_prepend(str(write_sdk(tmp_path / "site", MODULES, dists)))
    probe = machine(tmp_path, CARD | DRIVER).probe({})
    assert probe.ok and probe.arch == "gaudi2" and probe.device_count == 1
    assert probe.score == 50 and "1 x gaudi2, habana-torch-plugin 1.24.1.492" in probe.reason
