"""The seam between core and plugins, version 1.2. Imports numpy and pluggy alone, never torch."""

from inferplane.interfaces.allocator import Allocator
from inferplane.interfaces.attention import AttentionBackend, AttentionMeta, AttentionSpec
from inferplane.interfaces.batch import (
    Array,
    Logprobs,
    MediaRows,
    Pending,
    Ragged,
    SamplingBatch,
    StepBatch,
    StepResult,
)
from inferplane.interfaces.capabilities import (
    Capabilities,
    Change,
    EngineConfig,
    MemoryReport,
    ModelShape,
    Probe,
    SamplerCaps,
    SamplingParam,
    SchedulerLimits,
    Topology,
)
from inferplane.interfaces.communicator import Communicator
from inferplane.interfaces.device import DeviceRuntime, PromptAttention
from inferplane.interfaces.executor import (
    Choice,
    Executor,
    ExecutorStats,
    KVGroup,
    KVPlan,
    LayerKV,
    Progress,
    Tag,
)
from inferplane.interfaces.graphs import GraphCompiler, StepFunction
from inferplane.interfaces.kernels import Kernel, OpSite, Reasons
from inferplane.interfaces.kv import KVStore
from inferplane.interfaces.model import ForwardContext, HeardRows, Model, SeesPictures
from inferplane.interfaces.platform import ArtifactCache, Platform, WorkerContext
from inferplane.interfaces.quantization import (
    CanonicalWeight,
    LinearSite,
    QuantFormat,
    QuantKernel,
    QuantScheme,
)
from inferplane.interfaces.shapes import Bucket, ShapePolicy, StepShape

INTERFACE_VERSION = (1, 4)

__all__ = [
    "INTERFACE_VERSION",
    "Allocator",
    "Array",
    "ArtifactCache",
    "AttentionBackend",
    "AttentionMeta",
    "AttentionSpec",
    "Bucket",
    "CanonicalWeight",
    "Capabilities",
    "Change",
    "Choice",
    "Communicator",
    "DeviceRuntime",
    "EngineConfig",
    "Executor",
    "ExecutorStats",
    "ForwardContext",
    "GraphCompiler",
    "HeardRows",
    "KVGroup",
    "KVPlan",
    "KVStore",
    "Kernel",
    "LayerKV",
    "LinearSite",
    "Logprobs",
    "MediaRows",
    "MemoryReport",
    "Model",
    "ModelShape",
    "OpSite",
    "Pending",
    "Platform",
    "Probe",
    "Progress",
    "PromptAttention",
    "QuantFormat",
    "QuantKernel",
    "QuantScheme",
    "Ragged",
    "Reasons",
    "SamplerCaps",
    "SamplingBatch",
    "SamplingParam",
    "SchedulerLimits",
    "SeesPictures",
    "ShapePolicy",
    "StepBatch",
    "StepFunction",
    "StepResult",
    "StepShape",
    "Tag",
    "Topology",
    "WorkerContext",
]
