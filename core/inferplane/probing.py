"""What a platform may look at without importing an SDK: PCI identities and installed packages.

Knows no vendor: each platform brings its own names and numbers. Nothing here raises for what is
missing or unreadable, since "not there" is an answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

__all__ = [
    "Requirement",
    "at_least",
    "first_problem",
    "installed_versions",
    "pci_devices",
    "read_text",
]

_EMPTY_BYTES = 64 * 1024
"""A distribution with less than this holds no SDK; placeholders measure 1 to 7 kB."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One distribution an SDK consists of, and how to tell the real one from a squatter."""

    distribution: str
    floor: str
    """Lowest version known to work."""
    module: str
    """Top-level package that the real distribution provides."""
    source: str
    """Where the real one comes from, in words."""

    def version(self) -> str:
        """The installed version, "" when absent."""
        try:
            return metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return ""

    def problem(self) -> str:
        """Why it cannot be used, with the next step; "" = it looks right. Imports nothing."""
        version, wanted = self.version(), f"{self.floor} or newer comes from {self.source}"
        if not version:
            return f"{self.distribution} is not installed: {wanted}"
        named = f"{self.distribution} {version}"
        if not at_least(version, self.floor):
            size = _recorded_bytes(self.distribution)
            if size is not None and size < _EMPTY_BYTES:
                return f"{named} is an empty placeholder of {size} bytes: {wanted}"
            return f"{named} is too old: {wanted}"
        if find_spec(self.module) is None:
            return f"{named} provides no module {self.module}, so it is a placeholder: {wanted}"
        return ""


def first_problem(requirements: Iterable[Requirement]) -> str:
    """What is wrong with the first that is not met, with the next step; "" = all look right."""
    return next((found for one in requirements if (found := one.problem())), "")


def installed_versions(requirements: Iterable[Requirement]) -> dict[str, str]:
    """Name -> version of what is installed, for `inferplane doctor`."""
    return {one.distribution: version for one in requirements if (version := one.version())}


def at_least(version: str, floor: str) -> bool:
    """Whether the numbers of `version` are not below those of `floor`; suffixes do not count."""
    return _release(version) >= _release(floor)


def pci_devices(root: Path, vendor: str) -> tuple[str, ...]:
    """Device ids ("0x1020") of all PCI functions of `vendor` ("0x1da3") under `root`, sorted."""
    found = []
    for folder in sorted(root.glob("sys/bus/pci/devices/*")):
        if read_text(folder / "vendor") == vendor:
            found.append(read_text(folder / "device"))
    return tuple(sorted(found))


def read_text(path: Path) -> str:
    """The stripped text of a small file, "" when it is missing or unreadable."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _release(version: str) -> tuple[int, ...]:
    match = re.match(r"(?:\d+!)?(\d+(?:\.\d+)*)", version)
    numbers = [int(part) for part in match.group(1).split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _recorded_bytes(distribution: str) -> int | None:
    files = metadata.files(distribution)
    if files is None:
        return None
    return sum(file.size or 0 for file in files)
