"""Quantised experts of one layer: as stacks, each matrix by its own kernel, and in bf16.

python benchmarks/gpu/quantized_experts.py [--kinds int4,fp8] [--tokens 1,8,64,512,4096]

Qwen3-30B-A3B's sizes: 128 experts, 8 a token, 2,048 by 768. A kernel for each matrix shows every
token to every expert, since no shape of a captured step may depend on the routing. Stacks go
through CUDA C++ or Triton's tiles, or have their codes brought to bf16 first.
Needs a GPU; without one it says so and ends with 3.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from probes import graph_seconds
from torch import Tensor

from inferplane.interfaces import CanonicalWeight, LinearSite, QuantKernel, QuantScheme
from inferplane.layers.packed_experts import PackedExperts, StackedExperts
from inferplane.quantization.reference import dequantize
from inferplane_cuda.quantization import kernels
from inferplane_cuda.quantization.kernels import StreamedFp8, StreamedWeights
from inferplane_triton.kernels.activation import silu_mul
from inferplane_triton.kernels.experts import fused_moe
from inferplane_triton.quantization import weight_only
from inferplane_triton.quantization.weight_only import WeightOnly

EXPERTS, CHOICES, SIZE, INNER = 128, 8, 2048, 768
KINDS: Mapping[str, tuple[type[QuantKernel], QuantScheme, float]] = {
    "int4": (StreamedWeights, QuantScheme("int4", 128), 0.5 + 4 / 128),
    "int8": (StreamedWeights, QuantScheme("int8"), 1.0),
    "fp8": (StreamedFp8, QuantScheme("fp8_e4m3", activation="fp8_e4m3"), 1.0),
}
"""Kernel of one matrix, scheme, bytes a weight with its scales."""
WAYS = ("bf16", "C++", "C++, widened first", "Triton", "Triton, widened first", "matrices")
Layer = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Device:
    """All a kernel asks of its runtime."""

    torch_device: str = "cuda"


def main() -> int:
    """A line for each number of tokens: µs, TB/s of the chosen experts' codes, ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--kinds", default="int4,fp8", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--tokens", default="1,8,64,512,4096")
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        print("skipped: no GPU", file=sys.stderr)
        return 3
    for kind in chosen.kinds.split(","):
        compare(kind, [int(count) for count in chosen.tokens.split(",")])
    return 0


def compare(kind: str, token_counts: list[int]) -> None:
    """Two layers each, so that their weights do not stay in the cache."""
    single, scheme, width = KINDS[kind]
    sets = [layers(single, scheme) for _ in range(2)]
    for tokens in token_counts:
        x = torch.randn(tokens, SIZE, device="cuda", dtype=torch.bfloat16)
        ids = torch.rand(tokens, EXPERTS, device="cuda").argsort(-1)[:, :CHOICES].int()
        shares = torch.full(ids.shape, 1 / CHOICES, device="cuda")
        wanted = sets[0]["bf16"](x, shares, ids).double()
        read = len(ids.unique()) * 3 * INNER * SIZE * width
        took = {}
        for label in WAYS:
            name = force(label)
            got = sets[0][name](x, shares, ids).double()
            off = float((got - wanted).norm() / wanted.norm())
            took[label] = graph_seconds([partial(one[name], x, shares, ids) for one in sets])
            if not off < 0.05:
                raise SystemExit(f"{kind} {tokens} {label}: WRONG, {off:.3g} off bf16")
        best = min(seconds for name, seconds in took.items() if name not in ("bf16", "matrices"))
        told = ", ".join(f"{name} {seconds * 1e6:.0f}" for name, seconds in took.items())
        print(
            f"{kind} {tokens:5} tokens, µs: {told}; {read / best / 1e12:.2f} TB/s, "
            f"{took['matrices'] / best:.2f}x matrices, {took['bf16'] / best:.2f}x bf16",
            flush=True,
        )


def force(label: str) -> str:
    """The layer of `layers` that computes in that way, however many rows there are."""
    first = 1 if "first" in label else 1 << 30
    weight_only._WIDENED_EACH = first
    kernels._WIDENED_EACH = kernels._SCALED_EACH = 0 if "first" in label else first
    return "tiles" if "Triton" in label else "streamed" if "C++" in label else label


def layers(single: type[QuantKernel], scheme: QuantScheme) -> dict[str, Layer]:
    """The same random experts in each way."""
    gate_up, down = made(scheme, 2 * INNER, SIZE), made(scheme, SIZE, INNER)
    singly = PackedExperts(
        matrices(single, scheme, gate_up), matrices(single, scheme, down), silu_mul
    )
    stacked = {
        name: StackedExperts(stack(kind, scheme, gate_up), stack(kind, scheme, down), silu_mul)
        for name, kind in (("streamed", single), ("tiles", WeightOnly))
    }
    w13, w2 = (
        torch.stack([dequantize(one, scheme).bfloat16() for one in each(weight)])
        for weight in (gate_up, down)
    )
    return {
        "bf16": lambda x, shares, ids: fused_moe(x, w13, w2, shares, ids, "silu"),
        **stacked,
        "matrices": singly,
    }


def matrices(
    kind: type[QuantKernel], scheme: QuantScheme, weight: CanonicalWeight
) -> list[Callable[[Tensor], Tensor]]:
    """A kernel for each."""
    outputs, inputs = weight.values.shape[1:]
    kernel = kind(scheme, LinearSite(inputs, outputs, "bfloat16"), Device())  # type: ignore[arg-type]
    packs = [kernel.repack(one) for one in each(weight)]
    return [lambda x, p=packed: kernel.apply(x, p) for packed in packs]  # type: ignore[misc]


def stack(
    kind: type[QuantKernel], scheme: QuantScheme, weight: CanonicalWeight
) -> Callable[[Tensor, Tensor], Tensor]:
    """One kernel for all."""
    experts, outputs, inputs = weight.values.shape
    kernel = kind(scheme, LinearSite(inputs, outputs, "bfloat16", experts), Device())  # type: ignore[arg-type]
    packed = kernel.repack(weight)
    return lambda x, ids: kernel.apply_each(x, packed, ids)


def made(scheme: QuantScheme, outputs: int, inputs: int) -> CanonicalWeight:
    """Of about unit gain."""
    groups = inputs // scheme.group if scheme.group else 1
    shape = EXPERTS, outputs, inputs
    if scheme.weight == "fp8_e4m3":
        values, spread = torch.randn(shape, device="cuda").to(torch.float8_e4m3fn), 1.0
    else:
        most = 8 if scheme.weight == "int4" else 128
        values = torch.randint(-most, most, shape, device="cuda", dtype=torch.int8)
        spread = most / 2
    scales = torch.rand(EXPERTS, outputs, groups, device="cuda") + 0.5
    return CanonicalWeight(values, scales / (spread * inputs**0.5))


def each(weight: CanonicalWeight) -> list[CanonicalWeight]:
    """Its experts."""
    return [CanonicalWeight(*both) for both in zip(weight.values, weight.scales, strict=True)]


if __name__ == "__main__":
    sys.exit(main())
