"""What the CUDA platform says of machines described by a fake NVML; no device is touched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from inferplane.errors import ConfigError
from inferplane.interfaces import EngineConfig, ModelShape, Probe
from inferplane.testing.fake_sdk import write_sdk
from inferplane_cuda.platform import Cuda

MUST_NOT_RUN = "raise RuntimeError('a probe must not import this')"
NVML = """
class Memory:
    total = 80 << 30
def nvmlInit(): pass
def nvmlShutdown(): pass
def nvmlSystemGetDriverVersion(): return "580.1"
def nvmlDeviceGetCount(): return {count}
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetCudaComputeCapability(handle): return {capability}
def nvmlDeviceGetMemoryInfo(handle): return Memory
def nvmlDeviceGetName(handle): return "Fake 100"
"""
NO_DRIVER = "def nvmlInit(): raise OSError('NVML Shared Library Not Found')"
MODEL = ModelShape("LlamaForCausalLM", 2, 64, 4, 2, 16, 256, 512, "bfloat16")
Machine = Callable[..., Cuda]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A site folder with torch, Triton and an NVML; what is imported stays in this test."""

    def make(
        nvml: str = "", torch: str = "2.11.0", cuda: str = "13.0", gone: str = "", **facts: object
    ) -> Cuda:
        source = nvml or NVML.format(
            count=facts.get("count", 2), capability=facts.get("capability", (9, 0))
        )
        modules = {"torch": MUST_NOT_RUN, "triton": MUST_NOT_RUN, "pynvml": source}
        dists = {"torch": torch, "triton": "3.6.0", "nvidia-ml-py": "13.590.44"}
        dists.pop(gone, None)
        root = write_sdk(tmp_path / "site", modules, dists)
        (root / "torch/version.py").write_text(f"cuda: str | None = {cuda or None!r}\n")
        monkeypatch.syspath_prepend(str(root))
        return Cuda()

    return make


def test_two_devices_are_found_with_driver_and_generation(machine: Machine) -> None:
    probe = machine().probe({})
    assert probe.ok and probe.score == 50 and probe.device_count == 2 and probe.arch == "sm_90"
    assert probe.reason == "2 x Fake 100, driver 580.1, CUDA 13.0"
    assert probe.versions["torch"] == "2.11.0"


def test_a_machine_without_a_driver_repeats_what_the_library_says(machine: Machine) -> None:
    probe = machine(NO_DRIVER).probe({})
    assert not probe.ok and "no NVIDIA driver found" in probe.reason
    assert "Shared Library Not Found" in probe.reason


def test_a_driver_that_crashes_its_caller_is_an_answer(machine: Machine) -> None:
    probe = machine("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)").probe({})
    assert not probe.ok and "asking the NVIDIA driver failed: exit status -11" in probe.reason


def test_a_torch_for_something_else_is_refused_by_name(machine: Machine) -> None:
    probe = machine(torch="2.13.0+cpu", cuda="").probe({})
    assert not probe.ok and "torch 2.13.0+cpu is not a CUDA build" in probe.reason
    assert probe.device_count == 2


@pytest.mark.parametrize(
    ("capability", "fp8", "first"),
    [((9, 0), "e4m3fn", "bfloat16"), ((8, 0), "none", "bfloat16"), ((7, 5), "none", "float16")],
)
def test_number_formats_follow_the_generation(
    machine: Machine, capability: tuple[int, int], fp8: str, first: str
) -> None:
    platform = machine(capability=capability)
    caps = platform.capabilities(platform.probe({}), MODEL)
    assert caps.fp8 == fp8 and caps.compute_dtypes[0] == first and caps.labels == ("triton",)


def test_a_device_too_old_for_the_kernels_is_refused(machine: Machine) -> None:
    probe = machine(capability=(7, 0)).probe({})
    assert not probe.ok and "below 7.5" in probe.reason


@pytest.mark.parametrize(("chosen", "left"), [("0", 1), ("1,0", 2), ("GPU-1f", 1), ("0,9,1", 1)])
def test_the_visible_devices_are_counted(machine: Machine, chosen: str, left: int) -> None:
    assert machine().probe({"CUDA_VISIBLE_DEVICES": chosen}).device_count == left


@pytest.mark.parametrize("chosen", ["", "-1"])
def test_hidden_devices_are_an_answer(machine: Machine, chosen: str) -> None:
    probe = machine().probe({"CUDA_VISIBLE_DEVICES": chosen})
    assert not probe.ok and "hides every device" in probe.reason


def test_steps_overlap_and_small_ones_have_buckets() -> None:
    platform = Cuda()
    caps = platform.capabilities(Probe(True, "", arch="sm_90"), MODEL)
    config = EngineConfig("m", max_num_seqs=20)
    assert caps.limits.async_steps == 1 and not caps.static_shapes
    buckets = platform.shapes(config, caps).buckets()
    decodes = [b.num_seqs for b in buckets if b.graph == "decode"]
    assert decodes == [20, 16, 8, 4, 2, 1]
    assert max(b.num_tokens for b in buckets if b.graph == "mixed") == 512
    eager = EngineConfig("m", options={"graphs": "off"})
    assert platform.shapes(eager, caps).buckets() == ()


def test_options_are_checked_by_name_and_value() -> None:
    platform = Cuda()
    caps = platform.capabilities(Probe(True, "", arch="sm_90"), MODEL)
    assert platform.resolve(EngineConfig("m"), caps, MODEL) == ()
    with pytest.raises(ConfigError, match="graphs='some'.*on or off"):
        platform.resolve(EngineConfig("m", options={"graphs": "some"}), caps, MODEL)
    both = EngineConfig("m", tensor_parallel=2, options={"placement": "inline"})
    with pytest.raises(ConfigError, match="inline serves one device"):
        platform.resolve(both, caps, MODEL)
    assert platform.topology(EngineConfig("m", tensor_parallel=2), caps).processes == 2
    assert platform.topology(EngineConfig("m"), caps).placement == "inline"
    worker = EngineConfig("m", options={"placement": "worker"})
    assert platform.topology(worker, caps).placement == "worker"
