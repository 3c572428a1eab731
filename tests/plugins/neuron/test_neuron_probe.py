"""What the Neuron platform says of machines described on disk."""

from pathlib import Path

import pytest

from inferplane.testing.fake_sdk import write_files, write_sdk
from inferplane_neuron.platform import Neuron

MUST_NOT_RUN = "raise RuntimeError('a probe must not import this')"
PCI = "sys/bus/pci/devices"
DRIVER = {"dev/neuron0": "", "sys/module/neuron/version": "2.21.37.0"}
MODULES = dict.fromkeys(("torch_neuronx", "neuronxcc", "libneuronxla", "torch"), MUST_NOT_RUN)
REAL = {
    "torch-neuronx": "2.8.0.2.10",
    "neuronx-cc": "2.21.33363.0",
    "libneuronxla": "2.2.12677.0",
    "torch": "2.8.0",
}


def chip(device: str) -> dict[str, str]:
    return {f"{PCI}/0000:00:1e.0/vendor": "0x1d0f", f"{PCI}/0000:00:1e.0/device": device}


def machine(tmp_path: Path, files: dict[str, str]) -> Neuron:
    return Neuron(write_files(tmp_path / "machine", files))


def test_a_cloud_network_card_is_no_chip(tmp_path: Path) -> None:
    probe = machine(tmp_path, chip("0xec20")).probe({})
    assert not probe.ok and "no Trainium or Inferentia found" in probe.reason


def test_the_first_generation_is_refused_by_name(tmp_path: Path) -> None:
    probe = machine(tmp_path, chip("0x7064") | DRIVER).probe({})
    assert not probe.ok and "inf1" in probe.reason and probe.device_count == 0


def test_a_chip_without_a_driver_names_the_module(tmp_path: Path) -> None:
    probe = machine(tmp_path, chip("0x7364")).probe({})
    assert not probe.ok and "1 x trn2 on the PCI bus, but /dev/neuron* is missing" in probe.reason


def test_an_empty_package_of_the_same_name_is_recognised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = write_sdk(tmp_path / "site", {"torch_neuronx": "#"}, {"torch-neuronx": "1.0"})
    monkeypatch.syspath_prepend(str(site))
    probe = machine(tmp_path, chip("0x7164") | DRIVER).probe({})
    assert not probe.ok and "torch-neuronx 1.0 is an empty placeholder of" in probe.reason


@pytest.mark.parametrize("name", list(REAL))
def test_each_missing_part_of_the_sdk_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    dists = {**REAL, name: "0.5"}
    monkeypatch.syspath_prepend(str(write_sdk(tmp_path / "site", MODULES, dists)))
    probe = machine(tmp_path, chip("0x7164") | DRIVER).probe({})
    assert not probe.ok and f"{name} 0.5 is" in probe.reason


def test_chip_driver_and_sdk_are_found_without_importing_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(write_sdk(tmp_path / "site", MODULES, REAL)))
    probe = machine(tmp_path, chip("0x7264") | DRIVER).probe({})
    assert probe.ok and probe.arch == "inf2" and probe.versions["neuron driver"] == "2.21.37.0"
    assert probe.score == 50


@pytest.mark.parametrize(
    ("device", "env", "cores"),
    [("0x7164", {}, 2), ("0x7364", {}, 4), ("0x7364", {"NEURON_LOGICAL_NC_CONFIG": "1"}, 8)],
)
def test_a_chip_counts_as_the_cores_that_programs_see(
    tmp_path: Path, device: str, env: dict[str, str], cores: int
) -> None:
    assert machine(tmp_path, chip(device)).probe(env).device_count == cores
