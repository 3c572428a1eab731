"""Layers of random GGUF blocks in the native kernels, against what the gguf package reads."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from torch import Tensor

from inferplane.execution.host_runtime import HostRuntime
from inferplane.interfaces import Capabilities, LinearSite
from inferplane.quantization.gguf import Gguf
from inferplane_cpu.native.library import NATIVE
from inferplane_cpu.native.machine import Machine
from inferplane_cpu.quantization.native import NativeLinear

OUTPUTS, INPUTS = 40, 512
HALVES = {
    **dict.fromkeys((Type.Q4_0, Type.Q5_0, Type.Q8_0, Type.IQ4_NL, Type.IQ4_XS), (0,)),
    **dict.fromkeys((Type.Q4_1, Type.Q4_K), (0, 2)),
    Type.Q6_K: (208,),
}
"""Where the half-precision scales (and minima) of a block lie; every other byte may be anything."""
CAPS = Capabilities(labels=(NATIVE,))


class Device(HostRuntime):
    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self.machine = machine


def random_blocks(kind: Type) -> np.ndarray:
    """u8[O, bytes of a row]."""
    make = np.random.default_rng(int(kind))
    elements, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = make.integers(0, 256, (OUTPUTS * INPUTS // elements, block_bytes)).astype(np.uint8)
    for at in HALVES[kind]:
        scales = make.uniform(1e-3, 2e-3, (len(blocks), 1)).astype(np.float16)
        blocks[:, at : at + 2] = scales.view(np.uint8)
    return blocks.reshape(OUTPUTS, -1)


def layer_of(
    machine: Machine, kind: Type, raw: np.ndarray
) -> tuple[NativeLinear, dict[str, Tensor]]:
    """(kernel, its packed weight) of a GGUF layer."""
    form = Gguf({"types": {"layer": kind.name}})
    scheme, site = form.scheme("layer"), LinearSite(INPUTS, OUTPUTS, "float32")
    assert scheme is not None and NativeLinear.supports(scheme, site, CAPS) == ()
    kernel = NativeLinear(scheme, site, Device(machine))
    weight = form.canonical("layer", {"layer.weight": torch.from_numpy(raw)})
    return kernel, dict(kernel.repack(weight))


def relative_error(kernel: NativeLinear, packed: dict[str, Tensor], x: Tensor, w: Tensor) -> float:
    expected = x.double() @ w.T
    return float((kernel.apply(x, packed).double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("kind", HALVES, ids=lambda kind: kind.name)
@pytest.mark.parametrize("rows", [1, 7, 20])
def test_blocks_multiply_like_the_numbers_in_them(machine: Machine, kind: Type, rows: int) -> None:
    raw = random_blocks(kind)
    w = torch.from_numpy(gguf.quants.dequantize(raw, kind)).double()
    x = torch.randn(rows, INPUTS, generator=torch.Generator().manual_seed(rows))
    # products of two scales are stored in half precision
    assert relative_error(*layer_of(machine, kind, raw), x, w) < 5e-4


@pytest.mark.parametrize("kind", HALVES, ids=lambda kind: kind.name)
def test_blocks_multiply_like_their_numbers_by_tiles_too(tiled: Machine, kind: Type) -> None:
    raw = random_blocks(kind)
    w = torch.from_numpy(gguf.quants.dequantize(raw, kind)).double()
    x = torch.randn(20, INPUTS, generator=torch.Generator().manual_seed(1)).bfloat16()
    assert relative_error(*layer_of(tiled, kind, raw), x, w) < 5e-3
