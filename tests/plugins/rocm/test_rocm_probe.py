"""What the ROCm platform says of machines described on disk."""

from pathlib import Path

import pytest

from inferplane.testing.fake_sdk import write_files, write_sdk
from inferplane_rocm.platform import Rocm

NODES = "sys/class/kfd/kfd/topology/nodes"
ONE_GPU = {
    "dev/kfd": "",
    f"{NODES}/0/properties": "cpu_cores_count 16\nsimd_count 0\ngfx_target_version 0",
    f"{NODES}/1/properties": "simd_count 304\ngfx_target_version 90402\nvendor_id 4098",
    "sys/module/amdgpu/version": "6.10.5",
}
MUST_NOT_RUN = "raise RuntimeError('a probe must not import this')"
HIP_TORCH = "hip: str | None = '6.4.43482'\n"


@pytest.fixture
def hip_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ROCm build of torch and its Triton, neither of which may be imported."""
    root = write_sdk(
        tmp_path / "site",
        {"torch": MUST_NOT_RUN, "triton": MUST_NOT_RUN, "amdsmi": MUST_NOT_RUN},
        {"torch": "2.9.1+rocm6.4", "triton": "3.5.1", "amdsmi": "7.0.2"},
    )
    (root / "torch/version.py").write_text(HIP_TORCH)
    monkeypatch.syspath_prepend(str(root))
    return root


def machine(tmp_path: Path, files: dict[str, str]) -> Rocm:
    return Rocm(write_files(tmp_path / "machine", files))


def test_a_machine_without_the_driver_says_which_file_is_missing(tmp_path: Path) -> None:
    probe = machine(tmp_path, {"etc/hostname": "x"}).probe({})
    assert not probe.ok and "/dev/kfd is missing" in probe.reason and probe.device_count == 0


def test_a_card_without_a_driver_names_the_driver(tmp_path: Path) -> None:
    probe = machine(tmp_path, {"sys/bus/pci/devices/0000:01:00.0/vendor": "0x1002\n"}).probe({})
    assert not probe.ok and "load the amdgpu driver" in probe.reason


def test_a_driver_without_a_card_says_so(tmp_path: Path) -> None:
    files = {name: text for name, text in ONE_GPU.items() if not name.startswith(f"{NODES}/1")}
    probe = machine(tmp_path, files).probe({})
    assert not probe.ok and "reports no GPU" in probe.reason


def test_a_card_with_a_torch_for_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_sdk(tmp_path / "site", {"torch": MUST_NOT_RUN}, {"torch": "2.13.0+cpu"})
    (root / "torch/version.py").write_text("hip: str | None = None\n")
    monkeypatch.syspath_prepend(str(root))
    probe = machine(tmp_path, ONE_GPU).probe({})
    assert not probe.ok
    assert probe.reason.startswith("1 x gfx942 found, but torch 2.13.0+cpu is not a ROCm build")
    assert probe.arch == "gfx942" and probe.versions["amdgpu"] == "6.10.5"


def test_an_old_torch_is_named_with_the_floor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = {"torch": "#" * 100_000}
    monkeypatch.syspath_prepend(str(write_sdk(tmp_path / "site", big, {"torch": "2.4.0"})))
    probe = machine(tmp_path, ONE_GPU).probe({})
    assert not probe.ok and "torch 2.4.0 is too old: 2.9 or newer" in probe.reason


@pytest.mark.usefixtures("hip_torch")
def test_driver_and_stack_together_are_found_without_importing_them(tmp_path: Path) -> None:
    probe = machine(tmp_path, ONE_GPU).probe({})
    assert probe.ok and probe.device_count == 1 and probe.versions["hip"] == "6.4.43482"
    assert probe.score == 50 and probe.reason == "1 x gfx942, HIP 6.4.43482"


@pytest.mark.usefixtures("hip_torch")
@pytest.mark.parametrize(
    ("env", "ok", "said"),
    [
        ({"HIP_VISIBLE_DEVICES": "0"}, True, "1 x gfx942"),
        ({"HIP_VISIBLE_DEVICES": "0", "CUDA_VISIBLE_DEVICES": "0"}, True, "1 x gfx942"),
        ({"HIP_VISIBLE_DEVICES": "0", "CUDA_VISIBLE_DEVICES": "1"}, False, "disagree"),
        ({"HIP_VISIBLE_DEVICES": ""}, False, "hides every device"),
        ({"HIP_VISIBLE_DEVICES": "-1"}, False, "hides every device"),
    ],
)
def test_the_two_variables_that_select_devices_are_obeyed(
    tmp_path: Path, env: dict[str, str], ok: bool, said: str
) -> None:
    probe = machine(tmp_path, ONE_GPU).probe(env)
    assert probe.ok is ok and said in probe.reason


@pytest.mark.parametrize(
    ("version", "name"),
    [(90402, "gfx942"), (90010, "gfx90a"), (90500, "gfx950"), (110001, "gfx1101")],
)
def test_the_driver_number_becomes_the_name_of_the_generation(
    tmp_path: Path, version: int, name: str
) -> None:
    files = {**ONE_GPU, f"{NODES}/1/properties": f"gfx_target_version {version}"}
    assert machine(tmp_path, files).probe({}).arch == name


def test_damaged_driver_files_are_an_answer_not_an_exception(tmp_path: Path) -> None:
    files = {**ONE_GPU, f"{NODES}/1/properties": "gfx_target_version\n\x00 x\nlonely"}
    assert not machine(tmp_path, files).probe({}).ok


@pytest.mark.usefixtures("hip_torch")
def test_a_processor_s_own_graphics_are_not_served(tmp_path: Path) -> None:
    files = {
        **ONE_GPU,
        f"{NODES}/1/properties": "gfx_target_version 100306",
        f"{NODES}/2/properties": "gfx_target_version 110000",
    }
    probe = machine(tmp_path, files).probe({})
    assert not probe.ok and "gfx1036 is not among the generations served" in probe.reason
    other = machine(tmp_path, files).probe({"HIP_VISIBLE_DEVICES": "1"})
    assert other.ok and other.arch == "gfx1100"


def test_nodes_are_counted_in_the_driver_s_order(tmp_path: Path) -> None:
    nodes = {f"{NODES}/{n}/properties": "gfx_target_version 90402" for n in range(1, 10)}
    nodes[f"{NODES}/10/properties"] = "gfx_target_version 90500"
    probe = machine(tmp_path, {**ONE_GPU, **nodes}).probe({"HIP_VISIBLE_DEVICES": "9"})
    assert probe.arch == "gfx950"
