"""The kit's levels 3, 4 and 6 on compiled programs alone: one graph a bucket, none once sealed.

The whole kit on the emulation and on torch_xla itself: `scripts/test-tpu`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from inferplane.testing.conformance.allocator import AllocatorConformance
from inferplane.testing.conformance.attention import AttentionConformance
from inferplane.testing.conformance.kv import KVStoreConformance
from inferplane.testing.conformance.models import ModelsConformance
from inferplane.testing.conformance.shapes import ShapesConformance
from inferplane.testing.conformance.state import KitState, Started
from inferplane.testing.conformance.subject import Subject


@pytest.fixture(scope="module")
def inferplane_kit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KitState]:
    """The emulation alone, which an installed plugin does not offer."""
    folder = tmp_path_factory.mktemp("inferplane")
    state = KitState(folder, ["inferplane_tpu.emulation"], quick=True)
    yield state
    state.close()


@pytest.fixture(scope="module")
def inferplane_device() -> str:
    return "tpu-emulated"


class TestAttention(AttentionConformance): ...


class TestKVStore(KVStoreConformance): ...


class TestAllocator(AllocatorConformance): ...


class TestShapes(ShapesConformance): ...


class TestModels(ModelsConformance):
    @pytest.fixture
    def started(self, subject: Subject, inferplane_kit: KitState) -> Started:
        """One model: each costs as many compilations as there are buckets."""
        return inferplane_kit.started(subject)
