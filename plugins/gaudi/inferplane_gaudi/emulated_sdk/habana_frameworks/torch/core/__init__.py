"""Importing it registers the compiler and the device's own operations, as the SDK does."""

import os
from typing import Any

import torch
from torch import Tensor

from inferplane.testing.traced_device import TracedDevice

__all__ = ["DEVICE"]

DEVICE = TracedDevice(aliased=False)
"""Every graph that was compiled in this process."""

_LARGEST = {"gaudi2": 240.0, "gaudi3": 448.0}
"""Generation, as the environment EMULATED_GAUDI names it, -> largest fp8 number."""


def _fp8_gemm_v2(  # noqa: PLR0913  (as the SDK has it)
    a: Tensor,
    a_transposed: bool,
    b: Tensor,
    b_transposed: bool,
    out: Tensor | None,
    dtype: torch.dtype,
    a_scale: Tensor,
    b_scale: Tensor,
    bias: Tensor | None = None,
    accumulate: bool = False,
) -> Tensor:
    left = _read(a.t() if a_transposed else a) * a_scale
    right = _read(b.t() if b_transposed else b) * b_scale
    product = left @ right
    return (product if bias is None else product + bias).to(dtype)


def _read(codes: Tensor) -> Tensor:
    """As a card reads them: on gaudi2 the highest exponent is that of what is no number."""
    values = codes.float()
    largest = _LARGEST[os.environ.get("EMULATED_GAUDI", "gaudi2")]
    return torch.where(values.abs() > largest, torch.full_like(values, torch.nan), values)


_LIBRARY: Any = torch.library.Library("hpu", "DEF")  # type: ignore[no-untyped-call]
_LIBRARY.define(
    "fp8_gemm_v2(Tensor A, bool trans_A, Tensor B, bool trans_B, Tensor? D, ScalarType out_dtype, "
    "Tensor? A_scale_inv=None, Tensor? B_scale_inv=None, Tensor? bias=None, bool accumulate=False)"
    " -> Tensor"
)
_LIBRARY.impl("fp8_gemm_v2", _fp8_gemm_v2, "CompositeImplicitAutograd")
torch._dynamo.register_backend(DEVICE, name="hpu_backend")
