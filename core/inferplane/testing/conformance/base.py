"""What all levels share: the device under test, its expected failures, and when to skip."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, ClassVar

import pytest

from inferplane.testing.conformance.state import KitState
from inferplane.testing.conformance.subject import Subject

if TYPE_CHECKING:
    from inferplane.testing.conformance.parts import Parts

__all__ = ["Conformance"]


class Conformance:
    """One part of the kit. A plugin's test file subclasses it under a name that begins with Test.

    The device is the fixture `inferplane_device`: the option of that name, or what the test file
    or class overrides it with.
    """

    level: ClassVar[int]
    needs_device: ClassVar[bool] = True
    """False: it runs on a machine without the hardware."""
    wide_only: ClassVar[bool] = False
    """True: it checks parts that a plugin with its own executor does not have."""

    @pytest.fixture
    def subject(
        self,
        inferplane_kit: KitState,
        inferplane_device: str,
        inferplane_options: dict[str, str],
        inferplane_quick: bool,
    ) -> Subject:
        """The device under test."""
        return inferplane_kit.subject(inferplane_device, inferplane_options, inferplane_quick)

    @pytest.fixture
    def parts(
        self, _conditions: None, subject: Subject, inferplane_kit: KitState
    ) -> Iterator[Parts]:
        """A wide device's parts; the test runs inside the device's guard."""
        parts = inferplane_kit.parts(subject)
        with parts.runtime.guard():
            yield parts

    @pytest.fixture(autouse=True)
    def _conditions(self, request: pytest.FixtureRequest, subject: Subject) -> None:
        if self.needs_device and not subject.probe.ok:
            pytest.skip(f"{subject.device}: {subject.probe.reason}")
        if self.wide_only and subject.narrow:
            pytest.skip(f"{subject.device} has its own executor")
        names = [f"{cls.__name__}::{request.function.__name__}" for cls in type(self).__mro__]
        for expected in subject.expectations.failures:
            if any(fnmatchcase(name, expected.test) for name in names):
                request.applymarker(pytest.mark.xfail(reason=expected.reason, strict=True))
