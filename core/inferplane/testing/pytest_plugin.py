"""The kit's door into pytest: options and readable assertions. Loaded by every run, so it is light.

Knows nothing of devices; what the options mean is decided in `inferplane.testing.conformance`.
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("inferplane.testing.conformance")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the kit's options."""
    group = parser.getgroup("inferplane", "conformance of a device plugin")
    group.addoption(
        "--inferplane-device",
        metavar="NAME",
        default=None,
        help="the device whose plugin is checked; alone it runs the whole kit",
    )
