"""Quantization = FORMAT (core: parse, canonical layout) x KERNEL (plugin: repack, multiply).

O output features, I input features, G groups of inputs, E experts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from inferplane.errors import UnsupportedError
from inferplane.interfaces.capabilities import Capabilities
from inferplane.interfaces.device import DeviceRuntime
from inferplane.interfaces.kernels import Reasons

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CanonicalWeight", "LinearSite", "QuantFormat", "QuantKernel", "QuantScheme"]


@dataclass(frozen=True, slots=True)
class QuantScheme:
    """What one layer's weights mean, whatever file they came from."""

    weight: Literal["int4", "int8", "fp8_e4m3", "fp8_e5m2", "fp4_e2m1"]
    group: int = 0
    """Inputs sharing a scale; 0 = one per output, -1 = one per tensor."""
    offset: bool = False
    """Asymmetric."""
    reordered: bool = False
    """Inputs permuted (activation order)."""
    activation: Literal["", "int8", "fp8_e4m3"] = ""
    """"" = weight-only."""
    activation_scale: Literal["token", "tensor", "static"] = "token"


@dataclass(frozen=True, slots=True)
class LinearSite:
    """One linear layer; `num_experts` > 0: a stack of expert matrices."""

    in_features: int
    out_features: int
    dtype: str
    num_experts: int = 0


@dataclass(slots=True)
class CanonicalWeight:
    """The one layout all formats unpack to: w = values * scales + offsets."""

    values: Tensor
    """int8 or fp8 [O,I] ([E,O,I] for experts), one element per weight; int4 codes are -8..7."""
    scales: Tensor
    """f32 [O,G] ([E,O,G] for experts)"""
    offsets: Tensor | None = None
    """f32, as `scales`"""
    order: Tensor | None = None
    """i32 [I]: column j belongs to input order[j]; groups are runs of columns."""
    input_scale: Tensor | None = None
    """f32 [1]"""


class QuantFormat(ABC):
    """A file format; knows nothing of devices."""

    loads_dense: ClassVar[bool] = False
    """The loader hands its weights over in high precision where no kernel wants them packed."""

    def __init__(self, config: Mapping[str, object]) -> None:
        """`config` = the checkpoint's quantization_config. Raises ConfigError when it is wrong."""

    @abstractmethod
    def scheme(self, layer: str) -> QuantScheme | None:
        """What the layer's weights mean; None = stored in high precision."""

    @abstractmethod
    def tensors(self, layer: str) -> tuple[str, ...]:
        """Names the checkpoint holds for the layer."""

    @abstractmethod
    def canonical(self, layer: str, tensors: Mapping[str, Tensor]) -> CanonicalWeight:
        """Unpack the layer. Raises ModelError naming the tensor that does not fit."""


class QuantKernel(ABC):
    """Speed for a scheme; truth is the core's dequantise-and-multiply."""

    @classmethod
    @abstractmethod
    def supports(cls, scheme: QuantScheme, site: LinearSite, caps: Capabilities) -> Reasons:
        """All reasons why not; () = supported."""

    def __init__(self, scheme: QuantScheme, site: LinearSite, device: DeviceRuntime) -> None:
        """Called in the worker once a layer, after `supports` returned ()."""

    @abstractmethod
    def repack(self, weight: CanonicalWeight) -> Mapping[str, Tensor]:
        """Once after loading: shuffle, pad, change the fp8 flavour."""

    @abstractmethod
    def apply(self, x: Tensor, packed: Mapping[str, Tensor], bias: Tensor | None = None) -> Tensor:
        """x[T,I] times the layer's weights transposed, plus bias -> [T,O]."""

    def apply_each(self, x: Tensor, packed: Mapping[str, Tensor], ids: Tensor) -> Tensor:
        """(optional, stacks) Row r of x[R,I] times the transposed matrix of each of its experts
        ids i32[R,k] -> [R*k,O], a row's choices after one another. No shape depends on the ids.

        Asked of kernels that support a site with `num_experts`, in place of `apply`.
        """
        raise UnsupportedError("apply_each")
