"""Routed experts of one layer: ours, the reference where all see all tokens, and transformers'.

python benchmarks/cpu/routed_experts.py [--experts 32] [--active 4] [--size 512] [--inner 256]
    [--layers 8] [--tokens 1,8,64,512] [--dtype bfloat16] [--threads 2] [--peer eager]
All in turns in one process over the same random weights, a layer after the other as a model reads
them; routings are random and alike for all. Milliseconds of all layers, median ratio of the turns.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Qwen3MoeConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

from inferplane.ops.reference.moe import fused_moe as all_experts
from inferplane.ops.reference.moe import moe_topk
from inferplane_cpu.kernels.moe import fused_moe as chosen_experts

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
    layers = [made(chosen, seed) for seed in range(chosen.layers)]
    print(f"torch {torch.__version__}, transformers {importlib.metadata.version('transformers')}")
    print(f"{chosen.layers} layers, {chosen.experts} experts, {chosen.active} active, D", end=" ")
    print(f"{chosen.size}, I {chosen.inner}, {chosen.dtype}, {chosen.threads} threads")
    with torch.inference_mode():
        for tokens in (int(text) for text in chosen.tokens.split(",")):
            report(tokens, ways(layers, tokens, chosen))


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
    parser.add_argument("--peer", default="grouped_mm", help="eager, batched_mm or grouped_mm")
    return parser.parse_args()


if __name__ == "__main__":
    main()
