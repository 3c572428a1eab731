"""The parts of the kit that need torch: kernels, attention, KV stores, allocators."""

from __future__ import annotations

from inferplane.testing.conformance.allocator import AllocatorConformance
from inferplane.testing.conformance.attention import AttentionConformance
from inferplane.testing.conformance.cells import MatrixConformance
from inferplane.testing.conformance.kv import KVStoreConformance
from inferplane.testing.conformance.ops import OpsConformance
from inferplane.testing.conformance.quantization import QuantKernelConformance

__all__ = [
    "TestAllocator",
    "TestAttention",
    "TestKVStore",
    "TestMatrix",
    "TestOps",
    "TestQuantKernels",
]


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


class TestMatrix(MatrixConformance):
    """L3."""
