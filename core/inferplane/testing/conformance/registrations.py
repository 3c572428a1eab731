"""Level 2, registrations: what a device is offered has names that something asks for."""

from __future__ import annotations

from typing import ClassVar

from inferplane.ops.catalogue import OPS
from inferplane.testing.conformance.base import Conformance
from inferplane.testing.conformance.subject import Subject

__all__ = ["RegistrationsConformance"]


class RegistrationsConformance(Conformance):
    """L2 for every plugin; kernels themselves are checked where there is torch."""

    level: ClassVar[int] = 2

    def test_every_kernel_is_for_an_op_that_exists(self, subject: Subject) -> None:
        """A name with a typing error would never be called, and nobody would notice."""
        own = {e.name for e in subject.entries("kernels") if not _is_private(e.name)}
        assert own - set(OPS) == set()

    def test_a_private_op_bears_its_owners_name(self, subject: Subject) -> None:
        """`acme.fancy/1` cannot collide with what the catalogue may get."""
        for entry in subject.entries("kernels"):
            if _is_private(entry.name):
                assert entry.name.startswith(f"{entry.owner}."), entry
                assert "/" in entry.name, f"{entry.name} has no version"

    def test_a_narrow_plugin_offers_nothing_that_is_never_asked(self, subject: Subject) -> None:
        """Its own executor uses neither the core's ops nor its attention."""
        if subject.narrow:
            for kind in ("kernels", "attention", "quantization_kernels"):
                mine = [e for e in subject.entries(kind) if e.owner == subject.entry.owner]
                assert mine == [], kind


def _is_private(name: str) -> bool:
    return "." in name.split("/")[0]
