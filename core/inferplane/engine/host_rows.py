"""Tokens that the device left to the host: drawn from the logits it handed over."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from inferplane.engine.batch_builder import BuiltStep
from inferplane.interfaces import Array, Logprobs, StepResult
from inferplane.sampling.host_sampler import draw

__all__ = ["draw_host_rows"]


def draw_host_rows(built: BuiltStep, result: StepResult) -> StepResult:
    """The result with token, log-probabilities and failure of each host row filled in.

    Raises RuntimeError when the executor did not hand over the logits it was asked for.
    """
    rows = built.batch.host_rows
    if rows is None or built.host_sampling is None:
        return result
    if result.logits is None or len(result.logits) != len(rows):
        raise RuntimeError("the executor returned no logits for the rows drawn on the host")
    drawn = draw(result.logits, built.host_sampling)
    token_ids = result.token_ids.copy()
    token_ids[rows] = -1
    token_ids[rows, 0] = drawn.token_ids
    failed = rows[drawn.failed]
    if result.failed is not None:
        failed = np.union1d(result.failed, failed)
    return replace(
        result,
        token_ids=token_ids,
        logprobs=_merge(result.logprobs, drawn.logprobs, rows, len(token_ids)),
        failed=failed.astype(np.int32) if len(failed) else None,
    )


def _merge(
    device: Logprobs | None, host: Logprobs | None, rows: Array, num_rows: int
) -> Logprobs | None:
    if host is None:
        return device
    width = max(host.ids.shape[1], 0 if device is None else device.ids.shape[1])
    values = np.full((num_rows, width), -np.inf, np.float32)
    ids = np.zeros((num_rows, width), np.int32)
    ranks = np.zeros(num_rows, np.int32)
    everything = np.arange(num_rows)
    for part, at in ((device, everything), (host, rows)):
        if part is not None:
            values[at, : part.values.shape[1]] = part.values
            ids[at, : part.ids.shape[1]] = part.ids
            ranks[at] = 0 if part.ranks is None else part.ranks
    return Logprobs(values, ids, ranks)
