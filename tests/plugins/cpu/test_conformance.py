"""The CPU plugin passes the kit, through the classes that a stranger's plugin uses."""

import pytest

from inferplane.testing.conformance.allocator import AllocatorConformance
from inferplane.testing.conformance.attention import AttentionConformance
from inferplane.testing.conformance.cells import MatrixConformance
from inferplane.testing.conformance.executor_kv import ExecutorKVConformance
from inferplane.testing.conformance.facts import FactsConformance
from inferplane.testing.conformance.hygiene import HygieneConformance
from inferplane.testing.conformance.kv import KVStoreConformance
from inferplane.testing.conformance.models import ModelsConformance
from inferplane.testing.conformance.ops import OpsConformance
from inferplane.testing.conformance.quantization import QuantKernelConformance
from inferplane.testing.conformance.sampling import SamplingConformance
from inferplane.testing.conformance.service import ServiceConformance
from inferplane.testing.conformance.shapes import ShapesConformance


@pytest.fixture(scope="module")
def inferplane_device() -> str:
    return "cpu"


@pytest.fixture(scope="module")
def inferplane_options() -> dict[str, str]:
    return {"threads": "1"}  # tiny matrices: more threads would only wait for each other


@pytest.fixture(scope="module")
def inferplane_quick() -> bool:
    return True  # docs/reports/cpu.json is a full run


class TestHygiene(HygieneConformance): ...


class TestFacts(FactsConformance): ...


class TestOps(OpsConformance): ...


class TestQuantKernels(QuantKernelConformance): ...


class TestAttention(AttentionConformance): ...


class TestKVStore(KVStoreConformance): ...


class TestAllocator(AllocatorConformance): ...


class TestExecutorKV(ExecutorKVConformance): ...


class TestShapes(ShapesConformance): ...


class TestSampling(SamplingConformance): ...


class TestModels(ModelsConformance): ...


class TestService(ServiceConformance): ...


class TestMatrix(MatrixConformance): ...
