"""The serial floor of a workload: what bandwidth and arithmetic allow, one phase after another.

T_decode(B, c) = max(W / BW, 2 P B / F) + B c kv / BW; T_prefill(S) = max(W / BW, operations / F);
with P parameters of layers and output, W their bytes, kv bytes of a token's KV.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from probe import Reading

from inferplane.cli.bench.workloads import Workload

__all__ = ["BYTES_PER_WEIGHT", "ModelSize"]

BYTES_PER_WEIGHT = {"bf16": 2.0, "int8": 1.0625, "int4": 0.5625}
"""bf16; GGUF Q8_0 and Q4_0: 32 weights and a 16-bit scale."""
_KV_BYTES = 2


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Parameters that a step reads, and what attention costs."""

    layer_params: int
    head_params: int
    kv_bytes: int
    attention: int
    """Operations for each pair of query and key."""

    @classmethod
    def of(cls, folder: Path) -> ModelSize:
        """From a model folder's config.json."""
        config = json.loads((folder / "config.json").read_text())
        hidden, layers = config["hidden_size"], config["num_hidden_layers"]
        heads = config["num_attention_heads"]
        kv_heads = config.get("num_key_value_heads") or heads
        dim = config.get("head_dim") or hidden // heads
        attention = hidden * (heads + 2 * kv_heads) * dim + heads * dim * hidden
        layer = attention + 3 * hidden * config["intermediate_size"]
        return cls(
            layers * layer,
            hidden * config["vocab_size"],
            2 * layers * kv_heads * dim * _KV_BYTES,
            4 * layers * heads * dim,
        )

    def step_bytes(self, weights: str) -> int:
        """Bytes of weights that one step reads."""
        return int((self.layer_params + self.head_params) * BYTES_PER_WEIGHT[weights])

    def prefill_s(self, lengths: list[int], weights: str, probe: Reading) -> float:
        """Seconds for prompts of these lengths, in one go."""
        flops = sum(
            2 * self.layer_params * n + 2 * self.head_params + self.attention * n * n / 2
            for n in lengths
        )
        return max(
            self.step_bytes(weights) / probe.bytes_per_s, flops / probe.operations_per_s(weights)
        )

    def decode_s(self, contexts: list[int], weights: str, probe: Reading) -> float:
        """Seconds of one step with these contexts."""
        params = 2 * (self.layer_params + self.head_params)
        matrices = max(
            self.step_bytes(weights) / probe.bytes_per_s,
            params * len(contexts) / probe.operations_per_s(weights),
        )
        return matrices + sum(contexts) * self.kv_bytes / probe.bytes_per_s

    def seconds(self, work: Workload, weights: str, probe: Reading) -> float:
        """The whole workload in groups of its concurrency, each group's steps until its longest."""
        size = work.concurrency or len(work.prompts)
        total = self.prefill_s([len(p.ids) for p in work.prompts], weights, probe)
        running: list[tuple[int, int]] = []
        waiting = [(len(p.ids), p.num_output - 1) for p in work.prompts]
        while waiting or running:
            while waiting and len(running) < size:
                running.append(waiting.pop(0))
            running = [(context + 1, left - 1) for context, left in running if left > 0]
            if running:
                total += self.decode_s([context for context, _ in running], weights, probe)
        return total
