"""Each fault that doctor promises to find is simulated here, and the healthy state beside it."""

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from inferplane.catalogue import read_catalogue
from inferplane.cli.checks import files, hardware, installation, limits, network
from inferplane.cli.checks.finding import Machine
from inferplane.cli.doctor import CHECKS
from inferplane.cli.plugin_table import PluginRow
from inferplane.config import DEFAULT_MODEL


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(
        environ={"PATH": ""},
        cache=tmp_path / "cache",
        host="127.0.0.1",
        port=0,
        has_key=False,
        plugins=(row("acme", "active", score=50), row("other", "usable", score=10)),
        root=tmp_path / "root",
    )


def row(name: str, status: str, reason: str = "", score: int = 0) -> PluginRow:
    return PluginRow(name, name, f"inferplane-{name}", "0.1.0", "1.0", status, reason, score)  # type: ignore[arg-type]


def write(machine: Machine, name: str, text: str) -> None:
    path = machine.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_codes_are_unique_and_every_check_is_listed() -> None:
    codes = [code for code, _ in CHECKS]
    offered = {
        name
        for module in (files, hardware, installation, limits, network)
        for name in module.__all__
    }
    assert len(set(codes)) == len(codes) >= 20
    assert {check.__name__ for _, check in CHECKS} == offered


def test_this_environment_is_healthy(machine: Machine) -> None:
    for check in (
        installation.python_version,
        installation.matching_versions,
        installation.requirements_met,
        installation.stale_entry_points,
        limits.clock,
    ):
        assert check(machine).status == "ok", check.__name__


# installation


def fake_distribution(folder: Path, name: str, version: str, extra: str = "") -> None:
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{extra}"
    )


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_a_plugin_of_another_version_is_found(machine: Machine, site: Path) -> None:
    fake_distribution(site, "inferplane-acme", "9.9.0")
    found = installation.matching_versions(machine)
    assert (found.status, found.fix) == ("fail", "pip install 'inferplane-acme==0.1.*'")


def test_a_missing_requirement_is_found(machine: Machine, site: Path) -> None:
    fake_distribution(site, "inferplane-acme", "0.1.0", "Requires-Dist: no-such-thing>=3\n")
    found = installation.requirements_met(machine)
    assert (found.status, found.fix) == ("fail", "pip install 'no-such-thing>=3'")


def test_a_requirement_of_an_extra_is_not_missed(machine: Machine, site: Path) -> None:
    fake_distribution(
        site, "inferplane-acme", "0.1.0", 'Requires-Dist: no-such-thing; extra == "x"\n'
    )
    assert installation.requirements_met(machine).status == "ok"


def test_metadata_without_code_is_found(machine: Machine, site: Path) -> None:
    fake_distribution(site, "inferplane-gone", "0.1.0")
    info = site / "inferplane_gone-0.1.0.dist-info"
    (info / "entry_points.txt").write_text("[inferplane]\ngone = inferplane_gone.plugin\n")
    found = installation.stale_entry_points(machine)
    assert (found.status, found.fix) == ("fail", "pip uninstall -y inferplane-gone")


def test_a_command_that_is_not_on_the_path_is_found(machine: Machine) -> None:
    found = installation.command_on_path(machine)
    assert found.status == "warn"
    assert "-m inferplane" in found.fix


def test_a_command_of_another_environment_is_found(machine: Machine, tmp_path: Path) -> None:
    other = tmp_path / "bin" / "inferplane"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    found = installation.command_on_path(replace(machine, environ={"PATH": str(other.parent)}))
    assert found.status == "warn"
    assert str(other) in found.seen


# hardware


def test_no_plugin_at_all_is_found(machine: Machine) -> None:
    found = hardware.plugin_installed(replace(machine, plugins=()))
    assert (found.status, found.fix) == ("fail", "pip install 'inferplane[cpu]'")


def test_hardware_without_its_plugin_is_found(machine: Machine) -> None:
    write(machine, "sys/bus/pci/devices/0000:01:00.0/vendor", "0x1da3\n")
    write(machine, "sys/bus/pci/devices/0000:01:00.0/device", "0x1020\n")
    found = hardware.plugin_installed(machine)
    assert found.status == "warn"
    assert found.fix == "pip install 'inferplane[gaudi]'"


def test_other_devices_of_a_known_vendor_suggest_nothing(machine: Machine) -> None:
    write(machine, "sys/bus/pci/devices/0000:01:00.0/vendor", "0x1d0f\n")
    write(machine, "sys/bus/pci/devices/0000:01:00.0/device", "0xec20\n")
    assert hardware.plugin_installed(machine).status == "ok"


def test_a_broken_plugin_is_found_with_its_reason(machine: Machine) -> None:
    broken = replace(machine, plugins=(row("acme", "broken", "ImportError: no sdk"),))
    found = hardware.plugins_load(broken)
    assert found.status == "fail"
    assert "ImportError: no sdk" in found.seen
    assert "--without acme" in found.fix


def test_no_usable_device_is_found(machine: Machine) -> None:
    idle = replace(machine, plugins=(row("acme", "not usable", "no card"),))
    assert hardware.device_choice(idle).status == "fail"
    assert hardware.device_choice(machine).status == "ok"


def test_two_usable_devices_show_the_choice(machine: Machine) -> None:
    assert "acme is taken" in hardware.one_best_device(machine).seen


def test_a_tie_is_found(machine: Machine) -> None:
    tie = replace(
        machine, plugins=(row("acme", "usable", score=50), row("other", "usable", score=50))
    )
    found = hardware.one_best_device(tie)
    assert (found.status, found.fix) == ("warn", "choose one: --device acme")


def test_a_torch_that_does_not_import_is_found(
    machine: Machine, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (site / "torch.py").write_text("raise ImportError('libacme.so: cannot open')\n")
    fake_distribution(site, "torch", "9.9.9")
    monkeypatch.setenv("PYTHONPATH", str(site))
    found = hardware.torch_imports(machine)
    assert found.status == "fail"
    assert "libacme.so: cannot open" in found.seen


# files


def test_a_cache_that_is_a_file_is_found(machine: Machine) -> None:
    machine.cache.write_text("")
    assert files.cache_writable(machine).status == "fail"


def test_a_cache_that_does_not_exist_yet_is_fine(machine: Machine) -> None:
    assert files.cache_writable(machine).status == "ok"


def test_a_full_disk_is_found(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = files.shutil.disk_usage("/")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    found = files.cache_room(machine)
    assert found.status == "fail"
    assert "INFERPLANE_CACHE" in found.fix


def cached_path(machine: Machine) -> Path:
    entry = read_catalogue()[DEFAULT_MODEL]
    path = machine.cache / "models" / DEFAULT_MODEL / entry.version / entry.file_name
    path.parent.mkdir(parents=True)
    return path


def test_a_damaged_cached_model_is_found(machine: Machine) -> None:
    path = cached_path(machine)
    path.write_bytes(b"not the model")
    found = files.cached_models(machine)
    assert found.status == "fail"
    assert str(path) in found.fix


def test_an_interrupted_download_is_found(machine: Machine) -> None:
    half = cached_path(machine).parent / ".fetch-1-x"
    half.mkdir()
    found = files.half_downloads(machine)
    assert found.status == "warn"
    assert str(half) in found.fix


# limits


def test_a_container_with_too_little_memory_is_found(machine: Machine) -> None:
    write(machine, "sys/fs/cgroup/memory.max", str(2**29))
    write(machine, "sys/fs/cgroup/memory.current", "0")
    found = limits.memory(machine)
    assert found.status == "fail"
    assert "container's limit of 512 MiB" in found.seen


def test_no_memory_limit_is_fine(machine: Machine) -> None:
    write(machine, "sys/fs/cgroup/memory.max", "max")
    assert "container" not in limits.memory(machine).seen


@pytest.mark.parametrize(
    ("name", "text"),
    [("sys/fs/cgroup/cpu.max", "50000 100000"), ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000")],
)
def test_a_cpu_quota_below_the_cores_is_found(machine: Machine, name: str, text: str) -> None:
    write(machine, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000")
    write(machine, name, text)
    found = limits.cores(machine)
    assert found.status == "warn"
    assert "export OMP_NUM_THREADS=1" in found.fix


def test_no_quota_is_fine(machine: Machine) -> None:
    write(machine, "sys/fs/cgroup/cpu.max", "max 100000")
    assert limits.cores(machine).status == "ok"


def test_a_low_limit_on_open_files_is_found(machine: Machine) -> None:
    write(machine, "proc/self/limits", "Limit  Soft\nMax open files    256    4096    files\n")
    assert limits.open_files(machine).fix == "ulimit -n 65536"


def test_a_small_dev_shm_is_found(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine.root / "dev/shm").mkdir(parents=True)
    usage = limits.shutil.disk_usage("/")
    monkeypatch.setattr(limits.shutil, "disk_usage", lambda path: usage._replace(total=64 << 20))
    found = limits.shared_memory(machine)
    assert found.status == "warn"
    assert "--shm-size=1g" in found.fix


def test_an_old_c_library_is_found(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits.platform, "libc_ver", lambda: ("glibc", "2.17"))
    assert limits.c_library(machine).status == "fail"


def test_a_clock_in_the_past_is_found(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits.time, "time", lambda: 0.0)
    assert limits.clock(machine).fix == "set the clock"


# network


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


def test_a_busy_port_is_found(machine: Machine, taken_port: int) -> None:
    found = network.port_free(replace(machine, port=taken_port))
    assert found.status == "fail"
    assert f"--port {taken_port + 1}" in found.fix


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.org", "::"])
def test_a_public_address_without_a_key_is_found(machine: Machine, host: str) -> None:
    public = replace(machine, host=host)
    assert network.key_beyond_loopback(public).status == "fail"
    assert network.key_beyond_loopback(replace(public, has_key=True)).status == "ok"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.4.5", "::1", "localhost"])
def test_loopback_needs_no_key(machine: Machine, host: str) -> None:
    assert network.key_beyond_loopback(replace(machine, host=host)).status == "ok"


def test_a_proxy_that_catches_loopback_is_found(machine: Machine) -> None:
    proxied = replace(machine, environ={"http_proxy": "http://proxy:1"})
    spared = replace(machine, environ={"http_proxy": "http://proxy:1", "no_proxy": "x, localhost"})
    assert network.proxy_spares_loopback(proxied).status == "warn"
    assert network.proxy_spares_loopback(spared).status == "ok"
