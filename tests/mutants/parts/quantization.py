"""A fast path for fp8 weights: decoded once, multiplied in the activations' dtype."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from inferplane import interfaces as api


class Fp8Linear(api.QuantKernel):
    """Weight-only fp8, one scale for each output or for all; also stacks of experts."""

    @classmethod
    def supports(
        cls, scheme: api.QuantScheme, site: api.LinearSite, caps: api.Capabilities
    ) -> api.Reasons:
        checks = (
            (scheme.weight == "fp8_e4m3", f"weights {scheme.weight}: only fp8_e4m3"),
            (not scheme.activation, "weight-only"),
            (scheme.group <= 0 and not scheme.reordered, "one scale for each output or for all"),
        )
        return tuple(reason for holds, reason in checks if not holds)

    def __init__(
        self, scheme: api.QuantScheme, site: api.LinearSite, device: api.DeviceRuntime
    ) -> None:
        self._dtype = getattr(torch, site.dtype)

    def repack(self, weight: api.CanonicalWeight) -> Mapping[str, Tensor]:
        decoded = weight.values.float() * weight.scales
        return {"weight": decoded.to(self._dtype)}

    def apply(self, x: Tensor, packed: Mapping[str, Tensor], bias: Tensor | None = None) -> Tensor:
        return F.linear(x, packed["weight"], bias)

    def apply_each(self, x: Tensor, packed: Mapping[str, Tensor], ids: Tensor) -> Tensor:
        chosen = packed["weight"].index_select(0, ids.flatten())
        rows = x.repeat_interleave(ids.shape[1], 0)
        return (chosen @ rows.unsqueeze(2)).squeeze(2)
