"""Whether the KV pool holds at least one request, and how long that request may be."""

from __future__ import annotations

from dataclasses import replace

from inferplane.errors import CapacityError
from inferplane.interfaces import KVPlan
from inferplane.launch import LaunchPlan
from inferplane.scheduling.block_table import largest_length, worst_case_blocks

__all__ = ["fit_context", "kv_bytes"]

_ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def fit_context(launch: LaunchPlan, kv: KVPlan) -> LaunchPlan:
    """The plan with a context that fits the pool.

    Shorter than asked only where the user left the length to us; else CapacityError with the
    blocks needed, those there are, and the largest length that fits.
    """
    config = launch.config
    usable, most = kv.num_blocks - 1, config.max_model_len
    in_flight = config.max_batched_tokens
    needed = worst_case_blocks(most, kv.groups, kv.block_size, in_flight)
    if needed <= usable:
        return launch
    fits = largest_length(usable, kv.groups, kv.block_size, in_flight, most)
    if launch.fit_context and fits:
        return replace(launch, config=replace(config, max_model_len=fits))
    raise CapacityError(
        f"a request of {most} tokens needs {needed} KV blocks of {kv.block_size} tokens, memory "
        f"holds {usable}: --max-model-len {fits} fits"
    )


def kv_bytes(launch: LaunchPlan, kv: KVPlan) -> int:
    """Bytes of the KV cache: a page holds one block of every layer of the largest group."""
    if not launch.keeps_kv:
        return 0
    model = launch.model
    item = _ITEM_BYTES.get(launch.config.dtype, 2)
    per_token = [
        sum(
            layer.num_kv_heads
            * (layer.head_dim + layer.head_dim_v)
            * _ITEM_BYTES.get(layer.dtype, 1 if layer.dtype not in ("", "auto") else item)
            for layer in group.layers
        )
        for group in kv.groups
    ]
    undisclosed = model.num_layers * 2 * model.num_kv_heads * model.head_dim * item
    return kv.num_blocks * kv.block_size * (max(per_token) or undisclosed)
