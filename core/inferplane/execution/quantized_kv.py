"""KV blocks in 8 bits: each token and head keeps a scale beside its numbers.

The scale is taken from what is written, or is the layer's own where a checkpoint was calibrated:
readers multiply by what is stored and need not know which. B blocks, S block size, K KV heads, H
head size, N slots, P blocks asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["KV_KINDS", "QuantizedKV", "QuantizedRows", "kv_codes", "row_bytes"]

KV_KINDS = {"int8": (torch.int8, 127.0), "fp8": (torch.float8_e4m3fn, 448.0)}
"""kv_dtype -> the type of its codes and the largest one."""
_FLAVOURS = {
    "e4m3fnuz": (torch.float8_e4m3fnuz, 240.0),
    "range240": (torch.float8_e4m3fn, 240.0),
}
"""fp8 of devices that read other codes than e4m3fn's (Capabilities.fp8)."""
_SCALE_BYTES = 2
_LEAST = 1e-30
"""Scale of zeros: representable in bfloat16, and no divisor of zero."""


def row_bytes(head_dim: int) -> int:
    """Bytes of one token of one head: its codes and their scale."""
    return head_dim + _SCALE_BYTES


def kv_codes(kind: str, fp8: str) -> tuple[torch.dtype, float]:
    """The type of a cache's codes and the largest one, on a device with that flavour of fp8."""
    own = _FLAVOURS.get(fp8)
    return own if own is not None and kind == "fp8" else KV_KINDS[kind]


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedRows:
    """The keys, or the values, of one layer; a block's scales follow its codes."""

    codes: Tensor
    """i8[B,S,K,H], whatever the kind."""
    scales: Tensor
    """bf16[B,S,K]"""
    kind: str
    fp8: str = "e4m3fn"
    """Flavour of the device's fp8."""
    static: Tensor | None = None
    """bf16[K]: the scale of every token's head; None = taken from what is written."""

    @classmethod
    def over(
        cls,
        buffer: Tensor,
        kind: str,
        shape: tuple[int, int, int],
        largest: Sequence[float] = (),
        fp8: str = "e4m3fn",
    ) -> QuantizedRows:
        """A view of u8 bytes in whole blocks of `shape` (S, K, H).

        `largest` = a calibrated magnitude for each head, which becomes the largest code.
        """
        size, heads, dim = shape
        num_codes = size * heads * dim
        blocks = buffer.view(-1, size * heads * row_bytes(dim))
        return cls(
            torch.unflatten(blocks[:, :num_codes].view(torch.int8), 1, shape),
            torch.unflatten(blocks[:, num_codes:].view(torch.bfloat16), 1, (size, heads)),
            kind,
            fp8,
            _static_scales(largest, kv_codes(kind, fp8)[1], buffer.device),
        )

    @classmethod
    def beside(
        cls,
        codes: Tensor,
        scales: Tensor,
        kind: str,
        largest: Sequence[float] = (),
        fp8: str = "e4m3fn",
    ) -> QuantizedRows:
        """Over codes i8[B,S,K,H] and scales bf16[B,S,K] in tensors of their own."""
        static = _static_scales(largest, kv_codes(kind, fp8)[1], scales.device)
        return cls(codes, scales, kind, fp8, static)

    def write(self, slots: Tensor, new: Tensor) -> None:
        """Store new[N,K,H] at `slots`: its largest magnitude becomes the largest code, or what lies
        beyond the static scale is clipped.
        """
        dtype, most = kv_codes(self.kind, self.fp8)
        wide = new.float()
        if self.static is None:
            scales = (wide.abs().amax(-1) / most).clamp_min(_LEAST).to(torch.bfloat16)
        else:
            scales = self.static.expand(wide.shape[:2])
        scaled = (wide / scales.float()[..., None]).clamp(-most, most)
        codes = (scaled.round() if dtype == torch.int8 else scaled).to(dtype)
        at = self._places(slots)
        self.codes[at] = codes.view(torch.int8)
        self.scales[at] = scales

    def read(self, slots: Tensor) -> Tensor:
        """f32[N,K,H] at `slots`."""
        at = self._places(slots)
        return self._wide(self.codes[at], self.scales[at])

    def gather(self, blocks: Tensor) -> Tensor:
        """f32[P*S,K,H] of whole blocks i64[P]."""
        codes, scales = (x.index_select(0, blocks) for x in (self.codes, self.scales))
        return self._wide(codes, scales).flatten(0, 1)

    def _wide(self, codes: Tensor, scales: Tensor) -> Tensor:
        return codes.view(kv_codes(self.kind, self.fp8)[0]).float() * scales.float()[..., None]

    def _places(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        size, slots = self.codes.shape[1], slots.long()
        return slots // size, slots % size


def _static_scales(largest: Sequence[float], most: float, device: torch.device) -> Tensor | None:
    """bf16[K], or None where nothing is known of the layer."""
    if not largest:
        return None
    wide = torch.tensor(largest, dtype=torch.float32, device=device) / most
    return wide.clamp_min(_LEAST).to(torch.bfloat16)


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedKV:
    """The handle of one layer, in layout nhd."""

    keys: QuantizedRows
    values: QuantizedRows

    def write(self, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """Store k[N,K,H] and v[N,K,Hv] at `slots` i32[N] or i64[N]."""
        self.keys.write(slots, k)
        self.values.write(slots, v)

    def read(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Keys f32[N,K,H] and values f32[N,K,Hv] at `slots`."""
        return self.keys.read(slots), self.values.read(slots)

    def gather(self, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Keys f32[P*S,K,H] and values f32[P*S,K,Hv] of whole blocks i64[P]."""
        return self.keys.gather(blocks), self.values.gather(blocks)
