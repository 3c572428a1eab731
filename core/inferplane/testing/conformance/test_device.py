"""The whole kit for one device: `pytest --inferplane-device NAME`."""

from importlib.util import find_spec

from inferplane.testing.conformance.executor_kv import ExecutorKVConformance
from inferplane.testing.conformance.facts import FactsConformance
from inferplane.testing.conformance.hygiene import HygieneConformance
from inferplane.testing.conformance.models import ModelsConformance
from inferplane.testing.conformance.registrations import RegistrationsConformance
from inferplane.testing.conformance.sampling import SamplingConformance
from inferplane.testing.conformance.service import ServiceConformance
from inferplane.testing.conformance.shapes import ShapesConformance

__all__ = [
    "TestExecutorKV",
    "TestFacts",
    "TestHygiene",
    "TestModels",
    "TestRegistrations",
    "TestSampling",
    "TestService",
    "TestShapes",
]

if find_spec("torch") is not None:  # parts of a torch device; a narrow plugin has none of them
    from inferplane.testing.conformance.wide import (  # noqa: F401
        TestAllocator,
        TestAttention,
        TestKVStore,
        TestMatrix,
        TestOps,
        TestQuantKernels,
    )


class TestHygiene(HygieneConformance):
    """L0."""


class TestFacts(FactsConformance):
    """L1."""


class TestRegistrations(RegistrationsConformance):
    """L2."""


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
