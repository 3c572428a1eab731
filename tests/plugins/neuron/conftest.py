"""The kit here loads the plugin and its emulation, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from inferplane.testing.conformance.state import KitState


@pytest.fixture(scope="session")
def inferplane_kit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KitState]:
    plugins = ["neuron", "inferplane_neuron.emulation"]
    state = KitState(tmp_path_factory.mktemp("inferplane"), plugins, quick=True)
    yield state
    state.close()
