"""The whole kit for one device: `pytest --inferplane-device NAME`."""

from inferplane.testing.conformance.allocator import AllocatorConformance
from inferplane.testing.conformance.attention import AttentionConformance
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


class TestHygiene(HygieneConformance):
    """L0."""


class TestFacts(FactsConformance):
    """L1."""


class TestOps(OpsConformance):
    """L2."""


class TestQuantKernels(QuantKernelConformance):
    """L2."""


class TestAttention(AttentionConformance):
    """L3."""


class TestKVStore(KVStoreConformance):
    """L3."""


class TestAllocator(AllocatorConformance):
    """L3."""


class TestExecutorKV(ExecutorKVConformance):
    """L3."""


class TestShapes(ShapesConformance):
    """L4."""


class TestSampling(SamplingConformance):
    """L5."""


class TestModels(ModelsConformance):
    """L6."""


class TestService(ServiceConformance):
    """L7."""
