"""Routed experts of one layer: ours, the reference where all see all tokens, and transformers'.

python benchmarks/cpu/routed_experts.py [--experts 32] [--active 4] [--size 512] [--inner 256]
    [--layers 8] [--tokens 1,8,64,512] [--dtype bfloat16] [--threads 2] [--peer eager]
    [--packed int4]
All in turns in one process over the same random weights, a layer after the other as a model reads
them; routings are random and alike for all. Milliseconds of all layers, median ratio of the turns.
--packed: instead, experts whose weights stay quantised, which see their own tokens, beside the same
kernels where every expert sees every token.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformers import Qwen3MoeConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

from inferplane.execution.host_runtime import HostRuntime
from inferplane.interfaces import CanonicalWeight, LinearSite, QuantScheme
from inferplane.layers.packed_experts import PackedExperts
from inferplane.ops.reference.moe import fused_moe as all_experts
from inferplane.ops.reference.moe import moe_topk
from inferplane_cpu.host import read_host
from inferplane_cpu.kernels.activation import silu_mul
from inferplane_cpu.kernels.moe import fused_moe as chosen_experts
from inferplane_cpu.native.library import load_library
from inferplane_cpu.native.machine import Machine
from inferplane_cpu.quantization.native import NativeLinear

_TURNS = 9


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of a layer, and transformers' module on the same memory."""

    gate_up: Tensor
    down: Tensor
    peer: Qwen3MoeExperts


def main() -> None:
    """Make the layers, run in turns, print."""
    chosen = arguments()
    torch.set_num_threads(chosen.threads)
    layers = [] if chosen.packed else [made(chosen, seed) for seed in range(chosen.layers)]
    print(f"torch {torch.__version__}, transformers {importlib.metadata.version('transformers')}")
    print(f"{chosen.layers} layers, {chosen.experts} experts, {chosen.active} active, D", end=" ")
    print(f"{chosen.size}, I {chosen.inner}, {chosen.dtype}, {chosen.threads} threads")
    with torch.inference_mode():
        for tokens in (int(text) for text in chosen.tokens.split(",")):
            found = ways(layers, tokens, chosen) if layers else packed_ways(chosen, tokens)
            report(tokens, found)


def made(chosen: argparse.Namespace, seed: int) -> Layer:
    """A layer of random weights."""
    make = torch.Generator().manual_seed(seed)
    kind, experts = getattr(torch, chosen.dtype), chosen.experts
    gate_up = torch.randn(experts, 2 * chosen.inner, chosen.size, generator=make)
    down = torch.randn(experts, chosen.size, chosen.inner, generator=make)
    gate_up = (gate_up / chosen.size**0.5).to(kind)
    down = (down / chosen.inner**0.5).to(kind)
    config = Qwen3MoeConfig(
        hidden_size=chosen.size,
        moe_intermediate_size=chosen.inner,
        num_experts=experts,
        num_experts_per_tok=chosen.active,
    )
    config._experts_implementation = chosen.peer
    with torch.device("meta"):
        peer = Qwen3MoeExperts(config)  # type: ignore[no-untyped-call]
    peer.gate_up_proj = torch.nn.Parameter(gate_up, requires_grad=False)
    peer.down_proj = torch.nn.Parameter(down, requires_grad=False)
    return Layer(gate_up, down, peer)


def ways(
    layers: list[Layer], tokens: int, chosen: argparse.Namespace
) -> Mapping[str, Callable[[], Tensor]]:
    """Name -> all layers over the same rows and routings, ours first."""
    make = torch.Generator().manual_seed(tokens)
    x = torch.randn(tokens, chosen.size, generator=make).to(getattr(torch, chosen.dtype))
    routed = [
        moe_topk(
            torch.randn(tokens, chosen.experts, generator=make), chosen.active, True, "softmax"
        )
        for _ in layers
    ]
    pairs = list(zip(layers, routed, strict=True))
    wide = [(layer, w.to(x.dtype), ids.long()) for layer, (w, ids) in pairs]

    def ours() -> Tensor:
        return torch.stack(
            [chosen_experts(x, at.gate_up, at.down, *to, "silu") for at, to in pairs]
        )

    def reference() -> Tensor:
        return torch.stack([all_experts(x, at.gate_up, at.down, *to, "silu") for at, to in pairs])

    def transformers() -> Tensor:
        return torch.stack([at.peer(x, ids, w) for at, w, ids in wide])

    return {"ours": ours, "all experts": reference, "transformers": transformers}


class _Device(HostRuntime):
    """All a quantised layer asks of its runtime."""

    def __init__(self, threads: int) -> None:
        super().__init__()
        self.machine = Machine(load_library(read_host().flags), (-1,) * threads)


def packed_ways(chosen: argparse.Namespace, tokens: int) -> Mapping[str, Callable[[], Tensor]]:
    """The same packed experts, with the routing read on the host and without."""
    make = torch.Generator().manual_seed(tokens)
    device = _Device(chosen.threads)
    scheme = QuantScheme(chosen.packed, group=32)

    def layer(inputs: int, outputs: int) -> Callable[[Tensor], Tensor]:
        most = 8 if chosen.packed == "int4" else 128
        values = torch.randint(-most, most, (outputs, inputs), generator=make).to(torch.int8)
        scales = torch.rand(outputs, inputs // 32, generator=make) / (most * inputs**0.5)
        kernel = NativeLinear(scheme, LinearSite(inputs, outputs, chosen.dtype), device)
        return partial(kernel.apply, packed=kernel.repack(CanonicalWeight(values, scales)))

    x = torch.randn(tokens, chosen.size, generator=make).to(getattr(torch, chosen.dtype))
    stacks = []
    for _ in range(chosen.layers):
        gate_up = [layer(chosen.size, 2 * chosen.inner) for _ in range(chosen.experts)]
        down = [layer(chosen.inner, chosen.size) for _ in range(chosen.experts)]
        scores = torch.randn(tokens, chosen.experts, generator=make)
        stacks.append((gate_up, down, moe_topk(scores, chosen.active, True, "softmax")))

    def run(sorts: bool) -> Tensor:
        return torch.stack(
            [PackedExperts(one, two, silu_mul, sorts)(x, *to) for one, two, to in stacks]
        )

    return {"ours": partial(run, True), "all experts": partial(run, False)}


def report(tokens: int, contestants: Mapping[str, Callable[[], Tensor]]) -> None:
    """Print a line for each; the first turn warms up and shows that all compute the same."""
    results = {name: run() for name, run in contestants.items()}
    for name, result in results.items():
        torch.testing.assert_close(
            result, results["ours"], atol=0.1, rtol=0.1, msg=f"{name}: other values than ours"
        )
    turns = [{name: seconds(run) for name, run in contestants.items()} for _ in range(_TURNS)]
    for name in contestants:
        ratio = statistics.median(turn[name] / turn["ours"] for turn in turns)
        median = statistics.median(turn[name] for turn in turns)
        told = "" if name == "ours" else f"   ours is x{ratio:.2f}"
        print(f"{tokens:4} tokens {name:14} {median * 1e3:9.2f} ms{told}", flush=True)


def seconds(run: Callable[[], Tensor]) -> float:
    """Of one run."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experts", type=int, default=32)
    parser.add_argument("--active", type=int, default=4)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--inner", type=int, default=256)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--tokens", default="1,8,64,512")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--packed", default="", choices=("", "int4", "int8"))
    parser.add_argument("--peer", default="grouped_mm", help="eager, batched_mm or grouped_mm")
    return parser.parse_args()


if __name__ == "__main__":
    main()
