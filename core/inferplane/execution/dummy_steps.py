"""Made-up steps on scratch block 0, for warm-up and for measuring the largest step."""

from __future__ import annotations

import numpy as np

from inferplane.interfaces import (
    EngineConfig,
    KVPlan,
    SamplingBatch,
    SchedulerLimits,
    ShapePolicy,
    StepBatch,
    StepShape,
)

__all__ = ["dummy_step", "largest_step"]


def dummy_step(
    plan: KVPlan,
    lengths: list[int],
    *,
    drawn: bool = False,
    scored: bool = True,
    pooled: bool = False,
) -> StepBatch:
    """One sequence for each of `lengths`, a prompt of so many tokens whose KV all goes to block 0.

    Every sequence samples: greedily, or with `drawn` by the most demanding path of the sampler,
    but without log-probabilities unless `scored`.
    With `pooled` their vectors are wanted instead.
    """
    num_tokens, num_seqs = sum(lengths), len(lengths)
    start = np.zeros(num_seqs + 1, np.int32)
    np.cumsum(lengths, out=start[1:])
    positions = np.arange(num_tokens, dtype=np.int32) - np.repeat(start[:-1], lengths)
    width = -(-max(lengths) // plan.block_size)
    groups = plan.groups
    return StepBatch(
        step=-1,
        num_decodes=num_seqs if max(lengths) == 1 else 0,
        token_ids=np.zeros(num_tokens, np.int32),
        token_source=np.full(num_tokens, -1, np.int32),
        positions=positions.astype(np.int32),
        query_start=start,
        seq_lens=np.array(lengths, np.int32),
        lanes=np.full(num_seqs, -1, np.int32),
        block_tables=tuple(np.zeros((num_seqs, width), np.int32) for _ in groups),
        slots=tuple((positions % plan.block_size).astype(np.int32) for _ in groups),
        sampled=np.arange(0 if pooled else num_seqs, dtype=np.int32),
        sampling=None if pooled else _sampling(num_seqs, drawn, scored),
        embedded=np.arange(num_seqs, dtype=np.int32) if pooled else None,
    )


def largest_step(
    limits: SchedulerLimits, config: EngineConfig, shapes: ShapePolicy, block_size: int
) -> list[int]:
    """Query lengths of the step that needs the most memory: all tokens, as many rows as may be.

    Where such a step is not admitted the tokens are dealt to half as many rows, and so on.
    """
    tokens = min(limits.max_step_tokens or config.max_batched_tokens, config.max_batched_tokens)
    seqs = min(limits.max_num_seqs or config.max_num_seqs, config.max_num_seqs, tokens)
    if limits.max_prefill_seqs is not None:
        seqs = min(seqs, limits.max_prefill_seqs)
    lengths = _dealt(tokens, seqs, config.max_model_len)
    while seqs > 1 and not shapes.admits(_shape(lengths, block_size)):
        seqs //= 2
        lengths = _dealt(tokens, seqs, config.max_model_len)
    return lengths


def _dealt(tokens: int, seqs: int, most: int) -> list[int]:
    """`tokens` over `seqs` rows of 1 to `most`: the first ones take all they can."""
    lengths = [1] * seqs
    left = tokens - seqs
    for place in range(seqs):
        extra = min(left, most - 1)
        lengths[place] += extra
        left -= extra
    return lengths


def _shape(lengths: list[int], block_size: int) -> StepShape:
    """Of prompts that long."""
    longest, seqs = max(lengths), len(lengths)
    blocks = sum(-(-length // block_size) for length in lengths)
    decodes = seqs if longest == 1 else 0
    return StepShape(sum(lengths), seqs, decodes, longest, longest, blocks)


def _sampling(num_rows: int, drawn: bool, scored: bool) -> SamplingBatch:
    return SamplingBatch(
        temperature=np.full(num_rows, float(drawn), np.float32),
        top_k=np.zeros(num_rows, np.int32),
        top_p=np.full(num_rows, 0.9 if drawn else 1.0, np.float32),
        min_p=np.zeros(num_rows, np.float32),
        seed=np.zeros(num_rows, np.uint64),
        position=np.arange(num_rows, dtype=np.uint64),
        num_logprobs=np.full(num_rows, 0 if drawn and scored else -1, np.int32),
    )
