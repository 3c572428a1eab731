"""Tables of named things that are imported only when someone chooses them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from inferplane.errors import RegistrationError, UnknownNameError

__all__ = ["KINDS", "Catalogue", "Entry", "Registry"]

KINDS = (
    "platforms",
    "attention",
    "kernels",
    "quantization_formats",
    "quantization_kernels",
    "models",
    "routes",
)
"""The registries, named as their hooks `register_<kind>`."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One register line: who offers what under which name, for which platforms or labels."""

    name: str
    target: str
    owner: str
    on: tuple[str, ...] = ()
    priority: int = 0

    def load(self) -> Any:
        """Import the target. Whatever its module raises comes through."""
        module, _, attribute = self.target.partition(":")
        return getattr(import_module(module), attribute)

    def answers_to(self, labels: Iterable[str]) -> bool:
        """Whether this entry is meant for a device with these labels (its own name included)."""
        return not self.on or any(label in self.on for label in labels)


class Registry:
    """All entries of one kind. Kernels may have many owners under one name; the rest may not."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.entries: list[Entry] = []

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def add(self, entry: Entry) -> None:
        """Raises RegistrationError for a malformed target or a second owner of the same name."""
        module, _, attribute = entry.target.partition(":")
        if not (module and attribute):
            raise RegistrationError(
                f"{entry.owner}: {self.kind} {entry.name!r} needs a target 'module:attribute', "
                f"got {entry.target!r}"
            )
        if self.kind != "kernels":
            for held in self.entries:
                if held.name == entry.name and held.on == entry.on:
                    raise RegistrationError(
                        f"{entry.owner} and {held.owner} both offer {self.kind} {entry.name!r}"
                    )
        self.entries.append(entry)

    def names(self) -> tuple[str, ...]:
        """Registered names, sorted, each once."""
        return tuple(sorted({entry.name for entry in self.entries}))

    def candidates(self, name: str, labels: Iterable[str] = ()) -> tuple[Entry, ...]:
        """Entries of that name for a device with `labels`; specific, then high priority, first."""
        labels = tuple(labels)
        found = [e for e in self.entries if e.name == name and e.answers_to(labels)]
        return tuple(sorted(found, key=lambda e: (not e.on, -e.priority, e.owner)))

    def get(self, name: str, labels: Iterable[str] = ()) -> Entry:
        """The best entry of that name. Raises UnknownNameError listing the known ones."""
        found = self.candidates(name, labels)
        if not found:
            known = ", ".join(self.names()) or "none"
            raise UnknownNameError(f"no {self.kind} {name!r} (known: {known})")
        return found[0]


class Catalogue:
    """Every registry: what all loaded plugins offer. Plain data once collected."""

    def __init__(self, lines: Iterable[tuple[str, Entry]] = ()) -> None:
        self.registries = {kind: Registry(kind) for kind in KINDS}
        for kind, entry in lines:
            self.registries[kind].add(entry)

    def __getitem__(self, kind: str) -> Registry:
        return self.registries[kind]

    def lines(self) -> list[tuple[str, Entry]]:
        """(kind, entry) of every register line; `Catalogue(lines)` restores it elsewhere."""
        return [(kind, entry) for kind, held in self.registries.items() for entry in held]
