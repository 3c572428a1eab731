"""What the XPU platform says of machines described on disk."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from inferplane.interfaces import EngineConfig, Probe
from inferplane.plugins import Plugins, find_plugins
from inferplane.testing.fake_sdk import write_files, write_sdk
from inferplane_xpu.platform import Xpu

PCI = "sys/bus/pci/devices/0000:03:00.0"
DRM = "sys/class/drm/renderD128"
ONE_CARD = {
    f"{PCI}/vendor": "0x8086\n",
    f"{PCI}/device": "0xe20b\n",
    f"{DRM}/device/vendor": "0x8086\n",
    "dev/dri/renderD128": "",
}
MUST_NOT_RUN = "raise RuntimeError('a probe must not import this')"


@pytest.fixture
def xpu_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An XPU build of torch and its Triton, neither of which may be imported."""
    modules = {"torch": MUST_NOT_RUN, "triton": MUST_NOT_RUN}
    dists = {"torch": "2.13.0+xpu", "pytorch-triton-xpu": "3.7.0"}
    monkeypatch.syspath_prepend(str(write_sdk(tmp_path / "site", modules, dists)))


def machine(tmp_path: Path, files: dict[str, str]) -> Xpu:
    return Xpu(write_files(tmp_path / "machine", files))


def test_a_processor_of_the_vendor_is_no_card(tmp_path: Path) -> None:
    probe = machine(tmp_path, {**ONE_CARD, f"{PCI}/device": "0x7d55\n"}).probe({})
    assert not probe.ok and "no discrete card" in probe.reason and probe.device_count == 0


def test_a_card_without_its_driver_names_the_modules(tmp_path: Path) -> None:
    files = {**ONE_CARD, f"{DRM}/device/vendor": "0x1002\n"}
    probe = machine(tmp_path, files).probe({})
    assert not probe.ok and "1 x Arc B found, but" in probe.reason and "xe or i915" in probe.reason


def test_a_torch_for_something_else_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = write_sdk(tmp_path / "site", {"torch": MUST_NOT_RUN}, {"torch": "2.13.0+cpu"})
    monkeypatch.syspath_prepend(str(site))
    probe = machine(tmp_path, ONE_CARD).probe({})
    assert not probe.ok and "torch 2.13.0+cpu is not an XPU build" in probe.reason


def test_stock_triton_is_not_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {"torch": MUST_NOT_RUN, "triton": MUST_NOT_RUN}
    site = write_sdk(tmp_path / "site", modules, {"torch": "2.13.0+xpu", "triton": "3.7.1"})
    monkeypatch.syspath_prepend(str(site))
    probe = machine(tmp_path, ONE_CARD).probe({})
    assert not probe.ok and "pytorch-triton-xpu comes from" in probe.reason


@pytest.mark.usefixtures("xpu_torch")
def test_driver_and_stack_together_are_found_without_importing_them(tmp_path: Path) -> None:
    probe = machine(tmp_path, ONE_CARD).probe({})
    assert probe.ok and probe.reason == "1 x Arc B, torch 2.13.0+xpu"
    assert (probe.score, probe.device_count, probe.arch) == (50, 1, "Arc B")


@pytest.mark.usefixtures("xpu_torch")
def test_hidden_devices_are_an_answer(tmp_path: Path) -> None:
    assert not machine(tmp_path, ONE_CARD).probe({"ZE_AFFINITY_MASK": "-1"}).ok
    assert machine(tmp_path, ONE_CARD).probe({"ZE_AFFINITY_MASK": "0"}).ok


def test_the_shared_kernels_answer_and_steps_are_captured_only_when_asked() -> None:
    platform = Xpu()
    caps = platform.capabilities(Probe(True, "", arch="Arc B"), None)
    plugins = Plugins(find_plugins(["xpu", "triton"]))
    labels = ("xpu", *caps.labels)
    offered = {e.name for e in plugins.catalogue["attention"] if e.answers_to(labels)}
    assert offered == {"triton"} and caps.fp8 == "none"
    assert platform.shapes(EngineConfig("m"), caps).buckets() == ()
    asked = EngineConfig("m", options={"graphs": "on"})
    assert platform.shapes(asked, caps).buckets() != ()
    assert "off (default)" in caps.options["graphs"]


def test_the_readme_counts_its_lines_right() -> None:
    package = Path(str(find_spec("inferplane_xpu").submodule_search_locations[0]))  # type: ignore[union-attr, index]
    lines = sum(len(file.read_text().splitlines()) for file in package.rglob("*.py"))
    readme = (package.parent / "README.md").read_text()
    assert f"how small new hardware is: {lines} lines of Python" in readme
