"""Laws of looking at a machine without importing anything."""

from pathlib import Path

import pytest

from inferplane.probing import (
    Requirement,
    at_least,
    first_problem,
    installed_versions,
    pci_devices,
    read_text,
)
from inferplane.testing.fake_sdk import write_files, write_sdk

ACME = Requirement("acme-sdk", "2.1", "acme_sdk", "the vendor")


@pytest.mark.parametrize(
    ("version", "floor", "holds"),
    [
        ("2.1", "2.1.0", True),
        ("2.10.0", "2.9", True),
        ("2.9.0+cpu", "2.9", True),
        ("2.9.0rc1", "2.9", True),
        ("1.0.post1", "2.21", False),
        ("0.0.1", "0.1", False),
        ("nonsense", "0.1", False),
        ("1!1.0", "1.0", True),
    ],
)
def test_versions_compare_by_their_numbers(version: str, floor: str, holds: bool) -> None:
    assert at_least(version, floor) is holds


def test_a_missing_distribution_is_named_with_its_source() -> None:
    assert ACME.problem() == "acme-sdk is not installed: 2.1 or newer comes from the vendor"
    assert ACME.version() == ""


@pytest.mark.parametrize(
    ("version", "source", "said"),
    [
        ("1.0", "", "is an empty placeholder of 0 bytes"),
        ("2.0", "#" * 70_000, "is too old"),
        ("2.1", "raise SystemExit", ""),
    ],
)
def test_what_is_installed_is_judged_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, source: str, said: str
) -> None:
    site = write_sdk(tmp_path, {"acme_sdk": source}, {"acme-sdk": version})
    monkeypatch.syspath_prepend(str(site))
    problem = ACME.problem()
    assert said in problem if said else problem == ""


def test_a_distribution_without_its_module_is_a_placeholder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(write_sdk(tmp_path, {}, {"acme-sdk": "3.0"})))
    assert "provides no module acme_sdk" in ACME.problem()


def test_only_functions_of_the_vendor_are_listed(tmp_path: Path) -> None:
    pci = "sys/bus/pci/devices"
    root = write_files(
        tmp_path,
        {
            f"{pci}/b/vendor": "0x10\n",
            f"{pci}/b/device": "0x2\n",
            f"{pci}/a/vendor": "0x10\n",
            f"{pci}/a/device": "0x1\n",
            f"{pci}/c/vendor": "0x11\n",
            f"{pci}/c/device": "0x3\n",
        },
    )
    assert pci_devices(root, "0x10") == ("0x1", "0x2")
    assert pci_devices(root, "0x12") == ()


def test_an_unreadable_file_reads_as_nothing(tmp_path: Path) -> None:
    assert read_text(tmp_path) == "" and read_text(tmp_path / "absent") == ""


def test_the_first_thing_missing_of_a_stack_is_told_and_what_is_there_is_listed() -> None:
    there = Requirement("pytest", "1.0", "pytest", "PyPI")
    missing = Requirement("no-such-package", "2.1", "no_such", "the vendor's index")
    other = Requirement("no-other-package", "1.0", "no_other", "nowhere")
    assert first_problem((there,)) == ""
    assert first_problem((there, missing, other)) == missing.problem()
    assert list(installed_versions((there, missing))) == ["pytest"]
