"""The kit's door into pytest: options and fixtures. Loaded by every run, so it imports nothing.

Knows nothing of devices; what the options mean is decided in `inferplane.testing.conformance`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.register_assert_rewrite("inferplane.testing.conformance")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the kit's options."""
    group = parser.getgroup("inferplane", "conformance of a device plugin")
    group.addoption(
        "--inferplane-device",
        metavar="NAME",
        default=None,
        help="the device whose plugin is checked; without other arguments it runs the whole kit",
    )


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny_model("llama", dtype="float32", …)` -> folder of that model, written once a session."""
    from inferplane.testing.tiny import write_tiny_model  # numpy and a tokenizer: only on use

    written: dict[str, Path] = {}

    def write(kind: str = "llama", **settings: object) -> Path:
        key = repr((kind, sorted(settings.items())))
        if key not in written:
            folder = tmp_path_factory.mktemp(kind)
            written[key] = write_tiny_model(folder, kind, **settings)  # type: ignore[arg-type]
        return written[key]

    return write
