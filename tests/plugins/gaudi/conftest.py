"""The kit here loads the plugin and nothing else; what the emulation's shim brings leaves again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from inferplane.testing.conformance.state import KitState


@pytest.fixture(scope="session")
def inferplane_kit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KitState]:
    state = KitState(tmp_path_factory.mktemp("inferplane"), ["gaudi"], quick=True)
    yield state
    state.close()
